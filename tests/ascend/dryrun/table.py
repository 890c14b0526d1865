"""Compares launches with tests/ascend/supported.toml, the dtypes that a 910B supports according to public sources."""

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from .record import Launch

TABLE = Path(__file__).resolve().parents[1] / "supported.toml"


@dataclass(frozen=True)
class Row:
    """The dtypes that one or several operators support.

    Attributes:
        names: of the operators, as recorded.
        source: where this is documented, or that no public source was found.
        arguments: a tensor's index in the call, as text -> the dtypes that it may have.
        same: indices of tensors that must have the same dtype.
        note: further requirements of the source, which aren't checked.
    """

    names: tuple[str, ...]
    source: str
    arguments: dict[str, list[str]] = field(default_factory=dict)
    same: tuple[int, ...] = ()
    note: str = ""

    def unsupported(self, dtypes: str) -> list[str]:
        """A message for each dtype that the operator doesn't support. Of a list, each tensor is checked."""
        places = _split(dtypes)
        wrong = []
        alike = {dtype for place in self.same if place < len(places) for dtype in places[place]}
        if len(alike) > 1:
            wrong.append(f"arguments {', '.join(map(str, self.same))} differ: {', '.join(sorted(alike))}")
        for text, allowed in self.arguments.items():
            number = int(text)
            refused = [dtype for dtype in (places[number] if number < len(places) else []) if dtype not in allowed]
            wrong += [f"argument {number} is {dtype}, not one of {', '.join(allowed)}" for dtype in refused]
        return wrong


class Table:
    """The rows of supported.toml, by operator.

    Raises:
        ValueError: two rows have the same operator.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        self._rows: dict[str, Row] = {}
        for row in rows:
            for name in row.names:
                if name in self._rows:
                    raise ValueError(f"{name} has two rows")
                self._rows[name] = row

    @classmethod
    def read(cls, file: Path = TABLE) -> "Table":
        rows = tomllib.loads(file.read_text())["operator"]
        return cls(Row(**{**row, "names": tuple(row["names"]), "same": tuple(row.get("same", ()))}) for row in rows)

    def violations(self, launches: Iterable[Launch]) -> list[str]:
        """A message for each launch in dtypes that its row doesn't allow, with the row's source."""
        return [
            f"{launch.name}({launch.dtypes}): {what} -- {self._rows[launch.name].source}"
            for launch in launches
            if launch.name in self._rows
            for what in self._rows[launch.name].unsupported(launch.dtypes)
        ]

    def missing(self, launches: Iterable[Launch]) -> list[str]:
        """Names of launched operators that have no row."""
        return sorted({launch.name for launch in launches} - self._rows.keys())


def _split(dtypes: str) -> list[list[str]]:
    """ "fp32 {bf16 bf16} int32" -> one list of dtypes per argument."""
    places: list[list[str]] = []
    inside = False
    for word in dtypes.replace("{", "{ ").replace("}", " }").split():
        if word == "{":
            places.append([])
            inside = True
        elif word == "}":
            inside = False
        elif inside:
            places[-1].append(word)
        else:
            places.append([word])
    return places
