"""The tokenizer that a GGUF file carries, as the tokenizers library has it."""

from pathlib import Path

from gguf import TokenType
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from dscoder_exp.schema.errors import refuse
from dscoder_exp.weights.formats.gguf_reader import Reader

# tokenizer.ggml.pre names how text is split before the merges; each needs its own, tested rule
SPLITS = {
    "smollm": [
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    ]
}


def build_tokenizer(reader: Reader, path: Path) -> Tokenizer | None:
    """The byte-level BPE of the file; None where it carries no tokenizer.

    Raises:
        Refused: a kind of tokenizer or a splitting rule that is not built; or it is damaged.
    """
    try:
        kind, split = reader.value("tokenizer.ggml.model"), reader.value("tokenizer.ggml.pre")
        if kind is None or kind == "no_vocab":
            return None
        if kind == "gpt2" and split in SPLITS:
            return _build(reader, split)
    except Exception as error:  # the library raises bare Exception
        raise refuse("tokenizer.path", f"{path}: its tokenizer is damaged ({error})", "copy the file again") from error
    what = f"{path}: its tokenizer (model {kind!r}, pre {split!r}) is not built; built: {', '.join(SPLITS)}"
    raise refuse("tokenizer.path", what, "set tokenizer.path to the model's tokenizer.json")


def _build(reader: Reader, split: str) -> Tokenizer:
    tokens = reader.value("tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in reader.value("tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(SPLITS[split])
    tokenizer.decoder = decoders.ByteLevel()
    types = reader.value("tokenizer.ggml.token_type") or []
    for special, kinds in ((True, (TokenType.CONTROL, TokenType.UNKNOWN)), (False, (TokenType.USER_DEFINED,))):
        added = [token for token, kind in zip(tokens, types, strict=False) if kind in kinds]
        tokenizer.add_tokens([AddedToken(token, special=special, normalized=False) for token in added])
    return tokenizer
