"""The one exception that means "refused": the input is wrong, nothing was started, exit code 2."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: what, where (a config key or file:line), and what to do about it."""

    where: str
    what: str
    remedy: str = ""

    def __str__(self) -> str:
        remedy = f"\n      -> {self.remedy}" if self.remedy else ""
        return f"{self.where}: {self.what}{remedy}"


class Refused(Exception):
    """Raised before anything starts; carries every problem found, so that a user mends them in one go."""

    def __init__(self, problems: Sequence[Problem], hint: str = "") -> None:
        self.problems = tuple(problems)
        self.hint = hint
        super().__init__(self.__str__())

    def __str__(self) -> str:
        count = len(self.problems)
        head = "refused" if count == 1 else f"refused, {count} problems"
        lines = [f"dscoder_exp: {head}"] + [f"  - {problem}" for problem in self.problems]
        return "\n".join(lines + ([self.hint] if self.hint else []))

    def __reduce__(self):  # an exception with two arguments does not pickle by itself
        return type(self), (self.problems, self.hint)


def refuse(where: str, what: str, remedy: str = "") -> Refused:
    """The usual case, one problem: `raise refuse("model.path", "no such directory: x", "give …")`."""
    return Refused([Problem(where, what, remedy)])
