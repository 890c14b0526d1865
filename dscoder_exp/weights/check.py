"""Whether a source holds exactly the tensors that its config calls for."""

import math
from dataclasses import dataclass

from dscoder_exp.schema.errors import refuse
from dscoder_exp.weights.names import HEAD, expected
from dscoder_exp.weights.source import WeightSource

SHOWN = 5  # names in a message
BUFFER = "rotary_emb.inv_freq"  # computed from rope_theta; old files store it


@dataclass(frozen=True)
class LoadReport:
    """What was found. `str` of it is the line that a user sees."""

    tensors: int
    parameters: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[str, ...]  # "name [found] instead of [expected]"

    @property
    def complete(self) -> bool:
        return not (self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        wrong = [
            f"{len(names)} {word} ({', '.join(names[:SHOWN])}{', …' if len(names) > SHOWN else ''})"
            for word, names in (
                ("missing", self.missing),
                ("unexpected", self.unexpected),
                ("of another shape", self.mismatched),
            )
            if names
        ]
        return f"{self.tensors:,} tensors, {self.parameters:,} parameters, {'; '.join(wrong) or 'all found'}"


def compare(source: WeightSource) -> LoadReport:
    """Names and shapes against the config; reads headers only."""
    wanted, found = expected(source.config), source.shapes()
    ignored = {name for name in found if name.endswith(BUFFER)}
    if source.config.tie_word_embeddings:
        ignored.add(HEAD)  # the embedding serves as the head, as in transformers
    right = [name for name in wanted if found.get(name) == wanted[name]]
    return LoadReport(
        tensors=len(right),
        parameters=sum(math.prod(wanted[name]) for name in right),
        missing=tuple(name for name in wanted if name not in found),
        unexpected=tuple(sorted(found.keys() - wanted.keys() - ignored)),
        mismatched=tuple(
            f"{name} {list(found[name])} instead of {list(wanted[name])}"
            for name in wanted
            if name in found and found[name] != wanted[name]
        ),
    )


def check(source: WeightSource, key: str = "model.path") -> LoadReport:
    """The report of a source that can be loaded; a native checkpoint is read through once for its hashes.

    Raises:
        Refused: a tensor is missing, unexpected, or of another shape; or a file has changed since it was written.
    """
    report = refuse_incomplete(source, key)
    source.verify()
    return report


def refuse_incomplete(source: WeightSource, key: str) -> LoadReport:
    """The report of a source that holds what its config calls for, by its headers.

    Raises:
        Refused: a tensor is missing, unexpected, or of another shape.
    """
    report = compare(source)
    if not report.complete:
        remedy = "the weights and their config don't belong together, or a file is incomplete: copy them again"
        raise refuse(key, f"{source.path}: {report}", remedy)
    return report
