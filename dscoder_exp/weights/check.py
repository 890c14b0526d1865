"""Whether a source holds exactly the tensors that its config calls for."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np

from dscoder_exp.schema.errors import refuse
from dscoder_exp.weights.formats.tensor_io import STORED
from dscoder_exp.weights.names import EMBEDDING, HEAD, parameter_shapes
from dscoder_exp.weights.source import WeightSource

SHOWN = 5  # names in a message
BUFFER = "rotary_emb.inv_freq"  # computed from rope_theta; old files store it


@dataclass(frozen=True)
class LoadReport:
    """What was found. `str` of it is the line that a user sees, `text` all of it.

    Attributes:
        tensors: names that were found in the shape they should have.
        parameters: values in them.
        missing, unexpected: names that no pattern of `weights.allow` takes in.
        mismatched: "name [found] instead of [expected]", or a dtype that holds no weights.
        allowed: names that are missing or unexpected, and taken in by a pattern.
        ignored: names that are known to say nothing.
        casts: the stored dtype -> how many tensors are computed with in another one.
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
        found = [self._part(word, names) for word, names in self._lists() if names]
        casts = [f"{dtype} -> {self.dtype}: {count}" for dtype, count in self.casts.items()]
        parts = [f"{len(self.tensors):,} tensors", f"{self.parameters:,} parameters"]
        parts += ["all found"] if self.complete else []
        return ", ".join(parts) + "".join(f"; {part}" for part in [*found, *casts])

    @property
    def text(self) -> str:
        """Every name."""
        lists = [("found", self.tensors), *self._lists()]
        names = [f"\n{len(names)} {word}:" + "".join(f"\n  {name}" for name in names) for word, names in lists if names]
        return "\n".join([str(self), *names]) + "\n"

    def _lists(self) -> list[tuple[str, tuple[str, ...]]]:
        return [
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("of another shape or dtype", self.mismatched),
            ("let pass by weights.allow", self.allowed),
            ("ignored", self.ignored),
        ]

    @staticmethod
    def _part(word: str, names: Sequence[str]) -> str:
        return f"{len(names)} {word} ({', '.join(names[:SHOWN])}{', …' if len(names) > SHOWN else ''})"


def compare(source: WeightSource, allow: Sequence[str] = (), dtype: str | None = "F32") -> LoadReport:
    """Names, shapes and dtypes against the config; reads headers only.

    Args:
        allow: patterns (as in a shell) of names that may be missing or unexpected.
        dtype: what the tensors will be computed with, None where they stay as they are.
    """
    wanted, found = parameter_shapes(source.config), source.shapes()
    ignored = {name for name in found if name.endswith(BUFFER)}
    if source.config.tie_word_embeddings and HEAD in found:
        ignored.add(HEAD)  # the embedding serves as the head, as in transformers
    right = [name for name in wanted if found.get(name) == wanted[name] and source.dtype(name) in STORED]
    missing = [name for name in wanted if name not in found]
    unexpected = sorted(found.keys() - wanted.keys() - ignored)
    allowed = {name for name in [*missing, *unexpected] if any(fnmatchcase(name, pattern) for pattern in allow)}
    stored = Counter(source.stored_as(name) for name in right)
    if dtype is None:  # only GGUF's types can't be kept
        stored = Counter({name: count for name, count in stored.items() if name not in STORED})
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
    """The report of a source that holds what its config calls for, by its headers.

    Raises:
        Refused: a tensor is missing, unexpected, or of another shape or dtype.
    """
    report = compare(source, allow, dtype)
    if report.complete:
        return report
    remedy = "the weights and their config don't belong together, or a file is incomplete: copy them again"
    if report.mismatched:
        raise refuse(key, f"{source.path}: {report}", remedy)
    if any("w_qkv" in name or "w_gate_hidden" in name for name in report.unexpected):
        remedy = "these were saved with qkv_concat, for one number of ranks: convert from weights without it"
    patterns = "weights.allow=['NAME-or-pattern', …] lets names pass: a missing one is drawn from the seed"
    raise refuse(key, f"{source.path}: {report}", f"{remedy}; or {patterns}")


def check(source: WeightSource, key: str = "model.path", allow: Sequence[str] = ()) -> LoadReport:
    """The report of a source that can be loaded.

    Raises:
        Refused: as `refuse_incomplete` does; or a tied model holds a head that isn't its embedding.
    """
    report = refuse_incomplete(source, key, allow)
    refuse_other_head(source, key)
    return report


def refuse_other_head(source: WeightSource, key: str) -> None:
    """Of a tied model: files may hold the head, too, but then the same values.

    Raises:
        Refused: the config says tied, and the head's values are others.
    """
    shapes = source.shapes()
    if not source.config.tie_word_embeddings or HEAD not in shapes or EMBEDDING not in shapes:
        return
    same = shapes[HEAD] == shapes[EMBEDDING] and source.dtype(HEAD) == source.dtype(EMBEDDING)
    if same and all(map(np.array_equal, source.pieces(HEAD), source.pieces(EMBEDDING))):
        return
    what = f"{source.path}: tie_word_embeddings is true, but {HEAD} differs from {EMBEDDING}"
    raise refuse(key, what, "set tie_word_embeddings to false in its config.json, or copy the weights again")
