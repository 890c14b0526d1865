"""Check that a weight source holds exactly the tensors of its config."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np

from dscoder_exp.schema.errors import refuse
from dscoder_exp.weights.formats.tensor_io import NUMPY_DTYPES
from dscoder_exp.weights.names import EMBEDDING, HEAD, parameter_shapes
from dscoder_exp.weights.source import WeightSource

MAX_NAMES_SHOWN = 5  # per list in a message
ROTARY_BUFFER = "rotary_emb.inv_freq"  # computed from rope_theta; old files store it


@dataclass(frozen=True)
class LoadReport:
    """Result of `compare`. `str` gives a one-line summary, `text` also lists every name.

    Attributes:
        tensors: names of tensors that have the expected shape and a supported dtype.
        parameters: number of values in `tensors`.
        missing, unexpected: names that no pattern of `weights.allow` matches.
        mismatched: "name dtype [found] instead of [expected]", for a wrong shape or unsupported dtype.
        allowed: names that are missing or unexpected, and matched by a pattern of `weights.allow`.
        ignored: names of stored tensors that aren't needed, such as a tied head.
        casts: stored dtype -> number of tensors that are converted to `dtype`.
        dtype: dtype that the tensors are computed in.
    """

    tensors: tuple[str, ...]
    parameters: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[str, ...]
    allowed: tuple[str, ...]
    ignored: tuple[str, ...]
    casts: dict[str, int]
    dtype: str

    @property
    def complete(self) -> bool:
        return not (self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        found = [self._summary(word, names) for word, names in self._lists() if names]
        casts = [f"{dtype} -> {self.dtype}: {count}" for dtype, count in self.casts.items()]
        parts = [f"{len(self.tensors):,} tensors", f"{self.parameters:,} parameters"]
        parts += ["all found"] if self.complete else []
        return ", ".join(parts) + "".join(f"; {part}" for part in [*found, *casts])

    @property
    def text(self) -> str:
        """The summary, and every name, one per line."""
        lists = [("found", self.tensors), *self._lists()]
        names = [f"\n{len(names)} {word}:" + "".join(f"\n  {name}" for name in names) for word, names in lists if names]
        return "\n".join([str(self), *names]) + "\n"

    def _lists(self) -> list[tuple[str, tuple[str, ...]]]:
        return [
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("of another shape or dtype", self.mismatched),
            ("allowed by weights.allow", self.allowed),
            ("ignored", self.ignored),
        ]

    @staticmethod
    def _summary(word: str, names: Sequence[str]) -> str:
        more = ", …" if len(names) > MAX_NAMES_SHOWN else ""
        return f"{len(names)} {word} ({', '.join(names[:MAX_NAMES_SHOWN])}{more})"


def compare(source: WeightSource, allow: Sequence[str] = (), dtype: str | None = "F32") -> LoadReport:
    """Compare names, shapes and dtypes with the config; reads headers only.

    Args:
        allow: shell patterns of names that may be missing or unexpected.
        dtype: dtype that the tensors will be computed in; None: they keep their own.
    """
    wanted, found = parameter_shapes(source.config), source.shapes()
    ignored = {name for name in found if name.endswith(ROTARY_BUFFER)}
    if source.config.tie_word_embeddings and HEAD in found:
        ignored.add(HEAD)  # the embedding is the head, as in transformers
    right = [name for name in wanted if found.get(name) == wanted[name] and source.dtype(name) in NUMPY_DTYPES]
    missing = [name for name in wanted if name not in found]
    unexpected = sorted(found.keys() - wanted.keys() - ignored)
    allowed = {name for name in [*missing, *unexpected] if any(fnmatchcase(name, pattern) for pattern in allow)}
    stored = Counter(source.stored_dtype(name) for name in right)
    if dtype is None:  # only GGUF's quantised types are converted
        stored = Counter({name: count for name, count in stored.items() if name not in NUMPY_DTYPES})
    return LoadReport(
        tensors=tuple(right),
        parameters=sum(math.prod(wanted[name]) for name in right),
        missing=tuple(name for name in missing if name not in allowed),
        unexpected=tuple(name for name in unexpected if name not in allowed),
        mismatched=tuple(
            f"{name} {source.dtype(name)} {list(found[name])} instead of {list(wanted[name])}"
            for name in wanted
            if name in found and name not in right
        ),
        allowed=tuple(name for name in [*missing, *unexpected] if name in allowed),
        ignored=tuple(sorted(ignored)),
        casts={name: count for name, count in sorted(stored.items()) if name != (dtype or "F32")},
        dtype=dtype or "F32",
    )


def refuse_incomplete(
    source: WeightSource, key: str, allow: Sequence[str] = (), dtype: str | None = "F32"
) -> LoadReport:
    """Compare as `compare` does, and return the report if it is complete.

    Raises:
        Refused: a tensor is missing or unexpected, or has a wrong shape or dtype.
    """
    report = compare(source, allow, dtype)
    if report.complete:
        return report
    remedy = "the weights don't match their config, or a file is incomplete: copy them again"
    if report.mismatched:
        raise refuse(key, f"{source.path}: {report}", remedy)
    if any("w_qkv" in name or "w_gate_hidden" in name for name in report.unexpected):
        remedy = "the weights were saved with qkv_concat, for a fixed number of ranks: take weights saved without it"
    patterns = "weights.allow=['NAME-or-pattern', …] allows them: missing tensors are initialised from the seed"
    raise refuse(key, f"{source.path}: {report}", f"{remedy}; or {patterns}")


def check(source: WeightSource, key: str = "model.path", allow: Sequence[str] = ()) -> LoadReport:
    """Check that a source can be loaded, and return its report.

    Raises:
        Refused: as `refuse_incomplete` does; or the model is tied, but its stored head differs from its embedding.
    """
    report = refuse_incomplete(source, key, allow)
    refuse_untied_head(source, key)
    return report


def refuse_untied_head(source: WeightSource, key: str) -> None:
    """Check a tied model's stored head, if there is one.

    Raises:
        Refused: tie_word_embeddings is true, but the stored head differs from the embedding.
    """
    shapes = source.shapes()
    if not source.config.tie_word_embeddings or HEAD not in shapes or EMBEDDING not in shapes:
        return
    same = shapes[HEAD] == shapes[EMBEDDING] and source.dtype(HEAD) == source.dtype(EMBEDDING)
    if same and all(map(np.array_equal, source.row_chunks(HEAD), source.row_chunks(EMBEDDING))):
        return
    what = f"{source.path}: tie_word_embeddings is true, but {HEAD} differs from {EMBEDDING}"
    raise refuse(key, what, "set tie_word_embeddings to false in its config.json, or copy the weights again")
