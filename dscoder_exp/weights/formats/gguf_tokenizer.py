"""Build a Tokenizer of the tokenizers library from a GGUF file's metadata."""

from pathlib import Path
from typing import Any, NamedTuple

from gguf import TokenType
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from dscoder_exp.schema.errors import refuse
from dscoder_exp.weights.formats.gguf_reader import Reader

SPACE = "\u2581"  # a space in the pieces of sentencepiece
BYTE_LEVEL, SENTENCEPIECE = "gpt2", "llama"  # tokenizer.ggml.model
LETTERS = (
    # of scripts with case, as deepseek-llm's tokenizer.json lists them
    "A-Za-z\xb5\xc0-\xd6\xd8-\xf6\xf8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373"
    "\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-"
    "\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-"
    "\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-"
    "\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-"
    "\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102"
    "\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139"
    "\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2"
    "\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-"
    "\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3"
    "\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df"
    "\U0001e900-\U0001e943"
)
CJK = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
# %s: how many digits make a token
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class Split(NamedTuple):
    """What precedes byte-level BPE, as in the original tokenizer.json.

    Attributes:
        regexes: the text is split into their matches and what lies between, one after the other.
        digits: each digit is split off, then.
        words: GPT-2's own regex splits last.
        whole: a piece that is in the vocabulary is one token, whatever the merges say.
        adds_bos: where the file doesn't say, as in llama.cpp.
    """

    regexes: tuple[str, ...] = ()
    digits: bool = False
    words: bool = False
    whole: bool = False
    adds_bos: bool = False


LLAMA3 = Split((WORDS % "{1,3}",), whole=True, adds_bos=True)
STARCODER = Split(digits=True, words=True)
# tokenizer.ggml.pre (llama.cpp, src/llama-vocab.cpp) -> the original tokenizer's own split, where llama.cpp adapts it
SPLITS = {
    "llama-bpe": LLAMA3,
    "llama3": LLAMA3,
    "llama-v3": LLAMA3,
    "deepseek-llm": Split(
        (
            "[\r\n]",
            f"\\s?[{LETTERS}]+",
            "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
            "\\s+$",
            CJK,
        ),
        digits=True,
    ),
    "deepseek-coder": Split(("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", CJK), digits=True),
    "gpt-2": Split(words=True),
    "smollm": STARCODER,
    "starcoder": STARCODER,
    "refact": STARCODER,
    "qwen2": Split((WORDS % "",)),
    "tekken": Split((TEKKEN,), whole=True, adds_bos=True),
}


class Entries(NamedTuple):
    """A file's vocabulary: the text and the type of each id."""

    texts: list[str]
    types: list[int]

    def of(self, *types: TokenType) -> list[str]:
        return [text for text, kind in zip(self.texts, self.types, strict=True) if kind in types]

    def ids(self) -> dict[str, int]:
        """Text -> id, without the unused ones, which pad a vocabulary. Raises ValueError for a text with two ids."""
        found = {text: number for number, text in enumerate(self.texts) if self.types[number] != TokenType.UNUSED}
        if len(found) != len(self.types) - self.types.count(TokenType.UNUSED):
            raise ValueError("two tokens with the same text")
        return found


def build_tokenizer(reader: Reader, path: Path) -> Tokenizer | None:
    """The file's tokenizer, byte-level BPE or sentencepiece's BPE; None if the file holds none.

    Raises:
        Refused: the tokenizer's model or pre-tokenizer is not supported, or it is damaged.
    """
    try:
        kind, pre = reader.value("tokenizer.ggml.model"), reader.value("tokenizer.ggml.pre")
        if kind in (None, "no_vocab", "none"):
            return None
        if kind == SENTENCEPIECE:
            return _finished(_sentencepiece(reader), reader, adds_bos=True)
        if kind == BYTE_LEVEL and pre in SPLITS:
            return _finished(_byte_level(reader, SPLITS[pre]), reader, adds_bos=SPLITS[pre].adds_bos)
    except Exception as error:  # the library raises bare Exception
        raise refuse("tokenizer.path", f"{path}: its tokenizer is damaged ({error})", "copy the file again") from error
    supported = f"supported: model {SENTENCEPIECE!r}, and model {BYTE_LEVEL!r} with pre {', '.join(SPLITS)}"
    what = f"{path}: its tokenizer (model {kind!r}, pre {pre!r}) is not supported; {supported}"
    raise refuse("tokenizer.path", what, "set tokenizer.path to the model's tokenizer.json")


def other_entry(reader: Reader, path: Path, given: Tokenizer) -> str | None:
    """The first id that is another token in the file than in `given`; None: there is none. Builds no tokenizer.

    Raises:
        Refused: the file's tokenizer is damaged.
    """
    try:
        entries = _entries(reader) if reader.value("tokenizer.ggml.tokens") is not None else Entries([], [])
    except (ValueError, TypeError) as error:
        raise refuse("tokenizer.path", f"{path}: its tokenizer is damaged ({error})", "copy the file again") from error
    for number, (text, kind) in enumerate(zip(*entries, strict=False)):
        if kind == TokenType.NORMAL and (other := given.id_to_token(number)) not in (None, text):
            return f"{number} is {other!r}, not {text!r}"
    return None


def _byte_level(reader: Reader, split: Split) -> Tokenizer:
    merges = [_merge(text) for text in reader.value("tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE(vocab=_entries(reader).ids(), merges=merges, ignore_merges=split.whole))
    steps: list[Any] = [pre_tokenizers.Split(Regex(regex), "isolated") for regex in split.regexes]
    steps += [pre_tokenizers.Digits(individual_digits=True)] if split.digits else []
    steps += [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split.words)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _merge(text: str) -> tuple[str, str]:
    first, _, second = text.partition(" ")
    return first, second


def _entries(reader: Reader) -> Entries:
    """The file's vocabulary. A file without types has normal tokens alone."""
    if (texts := reader.value("tokenizer.ggml.tokens")) is None:
        raise ValueError("it has no tokens")
    return Entries(texts, reader.value("tokenizer.ggml.token_type") or [TokenType.NORMAL] * len(texts))


def _sentencepiece(reader: Reader) -> Tokenizer:
    """As transformers' LlamaConverter (convert_slow_tokenizer.py) makes it of a tokenizer.model."""
    entries = _entries(reader)
    unknown = next(iter(entries.of(TokenType.UNKNOWN)), None)
    model = models.BPE(
        vocab=entries.ids(),
        merges=_merges_by_score(entries, reader.value("tokenizer.ggml.scores")),
        unk_token=unknown,
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)
    prefix = reader.value("tokenizer.ggml.add_space_prefix") is not False
    first = [normalizers.Prepend(SPACE)] if prefix else []
    tokenizer.normalizer = normalizers.Sequence([*first, normalizers.Replace(" ", SPACE)])
    last = [decoders.Strip(" ", 1, 0)] if prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *last]
    )
    return tokenizer


def _merges_by_score(entries: Entries, scores: list[float] | None) -> list[tuple[str, str]]:
    """The merges that sentencepiece makes: any two pieces whose join is a piece, the best score first.

    Where all pieces have one score (files made without tokenizer.model), their ids are their order.
    """
    pieces = {text: i for i, text in enumerate(entries.texts) if entries.types[i] == TokenType.NORMAL}
    if scores is None or len({scores[number] for number in pieces.values()}) < 2:
        scores = [-float(number) for number in range(len(entries.texts))]
    found = [
        (-scores[number], -end, end - len(text), text[:end], text[end:])
        for text, number in pieces.items()
        for end in range(1, len(text))
        if text[:end] in pieces and text[end:] in pieces
    ]
    found.sort(key=lambda merge: merge[:3])  # among equal scores the longer parts first, as in transformers
    return [(first, second) for *_, first, second in found]


def _finished(tokenizer: Tokenizer, reader: Reader, *, adds_bos: bool) -> Tokenizer:
    """With the tokens that text is searched for, and those that are put around a text."""
    entries = _entries(reader)
    for special, kinds in ((True, (TokenType.CONTROL, TokenType.UNKNOWN)), (False, (TokenType.USER_DEFINED,))):
        added = entries.of(*kinds)
        tokenizer.add_tokens([AddedToken(text, special=special, normalized=False) for text in added])
    given = reader.value("tokenizer.ggml.add_bos_token")
    begin = _token(reader, entries, "bos") if (adds_bos if given is None else given) else []
    end = _token(reader, entries, "eos") if reader.value("tokenizer.ggml.add_eos_token") else []
    if begin or end:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[*begin, "$A", *end],
            pair=[*begin, "$A", *end, *(f"{text}:1" for text in begin), "$B:1", *(f"{text}:1" for text in end)],
            special_tokens=[(text, entries.texts.index(text)) for text in {*begin, *end}],
        )
    return tokenizer


def _token(reader: Reader, entries: Entries, role: str) -> list[str]:
    """The text of the file's bos or eos token; empty if it names none."""
    number = reader.value(f"tokenizer.ggml.{role}_token_id")
    return [] if number is None else [entries.texts[number]]
