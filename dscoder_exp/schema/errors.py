"""Refused, the exception for wrong input: nothing was started, and the exit code is 2."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One problem: where (a config key or file:line), what is wrong, and how to fix it."""

    where: str
    what: str
    remedy: str = ""

    def __str__(self) -> str:
        remedy = f"\n      -> {self.remedy}" if self.remedy else ""
        return f"{self.where}: {self.what}{remedy}"


class Refused(Exception):
    """Raised before a job starts; holds every problem found, so that a user can fix them all at once."""

    def __init__(self, problems: Sequence[Problem], hint: str = "") -> None:
        self.problems = tuple(problems)
        self.hint = hint
        super().__init__(self.__str__())

    def __str__(self) -> str:
        count = len(self.problems)
        head = "refused" if count == 1 else f"refused, {count} problems"
        lines = [f"dscoder_exp: {head}"] + [f"  - {problem}" for problem in self.problems]
        return "\n".join(lines + ([self.hint] if self.hint else []))

    def __reduce__(self):  # pickle would call the class with the message alone
        return type(self), (self.problems, self.hint)


def refuse(where: str, what: str, remedy: str = "") -> Refused:
    """A Refused with one problem: `raise refuse("model.path", "no such directory: x", "give …")`."""
    return Refused([Problem(where, what, remedy)])
