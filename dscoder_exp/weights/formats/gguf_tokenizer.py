"""Build a Tokenizer of the tokenizers library from a GGUF file's metadata."""

from pathlib import Path

from gguf import TokenType
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from dscoder_exp.schema.errors import refuse
from dscoder_exp.weights.formats.gguf_reader import Reader

# tokenizer.ggml.pre -> pre-tokenizer; only those tested against the original tokenizer
PRE_TOKENIZERS = {
    "smollm": [
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    ]
}


def build_tokenizer(reader: Reader, path: Path) -> Tokenizer | None:
    """The file's byte-level BPE tokenizer; None if the file holds no tokenizer.

    Raises:
        Refused: the tokenizer's model or pre-tokenizer is not supported, or it is damaged.
    """
    try:
        kind, split = reader.value("tokenizer.ggml.model"), reader.value("tokenizer.ggml.pre")
        if kind is None or kind == "no_vocab":
            return None
        if kind == "gpt2" and split in PRE_TOKENIZERS:
            return _build(reader, split)
    except Exception as error:  # the library raises bare Exception
        raise refuse("tokenizer.path", f"{path}: its tokenizer is damaged ({error})", "copy the file again") from error
    supported = f"supported: model 'gpt2' with pre {', '.join(PRE_TOKENIZERS)}"
    what = f"{path}: its tokenizer (model {kind!r}, pre {split!r}) is not supported; {supported}"
    raise refuse("tokenizer.path", what, "set tokenizer.path to the model's tokenizer.json")


def _build(reader: Reader, split: str) -> Tokenizer:
    tokens = reader.value("tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in reader.value("tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(PRE_TOKENIZERS[split])
    tokenizer.decoder = decoders.ByteLevel()
    types = reader.value("tokenizer.ggml.token_type") or []
    for special, kinds in ((True, (TokenType.CONTROL, TokenType.UNKNOWN)), (False, (TokenType.USER_DEFINED,))):
        added = [token for token, kind in zip(tokens, types, strict=False) if kind in kinds]
        tokenizer.add_tokens([AddedToken(token, special=special, normalized=False) for token in added])
    return tokenizer
