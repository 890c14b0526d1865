"""A replica's answers and their verdicts, kept in a file as they come."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dscoder_exp.evaluation.programs import Verdict
from dscoder_exp.evaluation.results import result_row
from dscoder_exp.evaluation.sandbox import Sandbox
from dscoder_exp.evaluation.scoring import Sample, Scored, Scorer
from dscoder_exp.evaluation.suites import Suite
from dscoder_exp.generation.answer_file import AnswerFile, Place

Advance = Callable[[str], None]  # called with a note for each sample that is scored


class Keeper:
    """Keeps each answer when it is generated, and its verdict when it is scored.

    Attributes:
        total: samples that will have been scored in the end, with those of earlier runs.
        scored, passed: samples so far.
        speed: tokens/s, for the progress.
    """

    def __init__(self, file: AnswerFile, suite: Suite, sandbox: Sandbox, left: Sequence[Place]) -> None:
        """
        Args:
            file: what is kept already; answers without a verdict are scored now.
            left: samples that `add` will bring.
        """
        self._file, self._suite = file, suite
        self.isolation, self.speed = sandbox.isolation, 0.0
        unscored = [place for place, answer in file.answers.items() if "verdict" not in answer]
        self.total = len(file.answers) + len(left)
        self.scored = len(file.answers) - len(unscored)
        self.passed = sum(answer.get("verdict") == Verdict.PASSED for answer in file.answers.values())
        needed = sorted({number for number, _ in (*unscored, *left)})
        self._numbers = {suite.problems[number].key: number for number in needed}
        self._scorer = Scorer(sandbox, [suite.problems[number] for number in needed])
        for place in unscored:
            self._submit(place)

    @property
    def answers(self) -> Mapping[Place, Mapping[str, Any]]:
        return self._file.answers

    @property
    def kept(self) -> int:
        return len(self._file.answers)

    @property
    def failing(self) -> dict[str, str]:
        """The reference solutions that don't pass: problem -> message."""
        return self._scorer.failing

    @property
    def note(self) -> str:
        return f"{self.passed} passed" + (f", {self.speed:.1f} tokens/s" if self.speed else "")

    def add(self, place: Place, answer: Mapping[str, Any]) -> None:
        """Keep an answer, and begin to score it.

        Args:
            answer: Answer.fields(), and the form that it was asked for in.
        """
        kept = {name: value for name, value in answer.items() if name not in ("text", "seconds")}
        self._file.add(place, {"completion": answer["text"], **kept})
        self._submit(place)

    def score(self, advance: Advance) -> None:
        """Keep the verdicts that there are; doesn't wait."""
        for scored in self._scorer.finished():
            self._take(scored, advance)

    def score_rest(self, advance: Advance) -> None:
        """Wait for all verdicts, and keep them."""
        for scored in self._scorer.rest():
            self._take(scored, advance)

    def rows(self, places: Sequence[Place], samples: int) -> list[dict[str, Any]]:
        """The lines of the output.

        Args:
            places: of all samples, in order.
            samples: of each problem.
        """
        problems = self._suite.problems
        return [result_row(problems[place[0]], place[1], samples, self.answers[place]) for place in places]

    def finish(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write the output: the evaluation is done then."""
        self._file.finish(rows)

    def _submit(self, place: Place) -> None:
        answer = self._file.answers[place]
        cut = answer.get("finish_reason") == "length"
        self._scorer.submit(Sample(self._suite.problems[place[0]], place[1], answer["completion"], answer["form"], cut))

    def _take(self, scored: Scored, advance: Advance) -> None:
        key, sample = scored.key
        self._file.add((self._numbers[key], sample), scored.fields())
        self.scored += 1
        self.passed += scored.verdict is Verdict.PASSED
        advance(self.note)
