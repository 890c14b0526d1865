"""What an evaluation came to: results.jsonl, a line each sample, and evaluation.json, the score and its protocol."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from dscoder_exp.evaluation.problems import CodeProblem
from dscoder_exp.evaluation.programs import Verdict
from dscoder_exp.evaluation.protocol import Protocol
from dscoder_exp.evaluation.scores import Comparison, Score, compare, score_of
from dscoder_exp.evaluation.suites import Suite
from dscoder_exp.schema.errors import refuse
from dscoder_exp.storage.json_files import read_json, write_json

RESULTS, SUMMARY, PAGE = "results.jsonl", "evaluation.json", "evaluation.html"
BASELINE = "evaluate.baseline"
# Fields of a sample that a line of results.jsonl has besides task_id, completion, passed and result
MORE = ("verdict", "message", "seconds", "code", "form", "prompt_tokens", "tokens", "finish_reason")


@dataclass(frozen=True)
class Evaluation:
    """A suite's samples, all scored.

    Attributes:
        rows: the lines of results.jsonl: the problems in the suite's order, each with its samples.
        isolation: what the sandbox kept the programs from.
        failing: the message of each reference solution that doesn't pass, by problem.
        k: of pass@k; None: the number of samples.
        tokens_per_s: new tokens per second of generation in this run; None: nothing was generated.
    """

    suite: Suite
    rows: Sequence[Mapping[str, Any]]
    protocol: Protocol
    isolation: str
    failing: Mapping[str, str] = field(default_factory=dict)
    k: int | None = None
    tokens_per_s: float | None = None

    @cached_property
    def score(self) -> Score:
        samples: dict[str, list[bool]] = {}
        for row in self.rows:
            samples.setdefault(str(row["task_id"]), []).append(row["passed"])
        return score_of([(len(found), sum(found)) for found in samples.values()], self.k)

    @cached_property
    def verdicts(self) -> dict[str, int]:
        """Samples by verdict, in Verdict's order, without those that none has."""
        counts = Counter(row["verdict"] for row in self.rows)
        return {str(verdict): counts[verdict] for verdict in Verdict if counts[verdict]}

    def metrics(self) -> dict[str, float]:
        """Under the names of tracking/metrics.py."""
        score = self.score
        found = {
            "evaluate/pass_at_1": score.pass_at_1,
            "evaluate/pass_at_1_low": score.low,
            "evaluate/pass_at_1_high": score.high,
            "evaluate/pass_at_k": score.pass_at_k,
            "evaluate/tokens_per_s": self.tokens_per_s,
        }
        return {name: value for name, value in found.items() if value is not None}

    def compared_with(self, baseline: Path) -> Comparison:
        """The comparison with an earlier evaluation.

        Raises:
            Refused: it has another protocol.
        """
        refuse_other_protocol(baseline, self.protocol)
        return compare(_first_samples(self.rows), _first_samples(read_results(baseline)))

    def write_summary(self, directory: Path, comparison: Comparison | None) -> None:
        """Write evaluation.json."""
        record = {
            "suite": self.suite.name,
            "source": str(self.suite.path),
            "samples": len(self.rows),
            **asdict(self.score),
            "verdicts": self.verdicts,
            "protocol_hash": self.protocol.hash,
            "protocol": asdict(self.protocol),
            "sandbox": self.isolation,
            "failing_references": dict(self.failing),
            "tokens_per_s": self.tokens_per_s,
            "comparison": comparison and asdict(comparison),
        }
        unfinished = directory / f".{SUMMARY}.unfinished"
        write_json(unfinished, record)
        unfinished.replace(directory / SUMMARY)


def result_row(problem: CodeProblem, sample: int, samples: int, answer: Mapping[str, Any]) -> dict[str, Any]:
    """A line of results.jsonl; answer: the sample's fields, as they are kept while the evaluation runs."""
    verdict, message = answer["verdict"], answer["message"]
    return {
        "task_id": problem.task_id,
        **({"sample": sample} if samples > 1 else {}),
        "completion": answer["completion"],
        "passed": verdict == Verdict.PASSED,
        "result": f"{verdict}: {message}" if message else verdict,
        **{name: answer[name] for name in MORE if name in answer},
    }


def refuse_other_protocol(baseline: Path, protocol: Protocol) -> None:
    """Raise Refused unless the earlier evaluation has this protocol, and its results can be read."""
    differing = protocol.differences(read_summary(baseline)["protocol"])
    if differing:
        what = f"{baseline} was evaluated by another protocol, which can't be compared: {', '.join(differing)}"
        raise refuse(BASELINE, what, "evaluate both by the same one")
    read_results(baseline)


def read_summary(directory: Path) -> dict[str, Any]:
    """The evaluation.json of a directory. Raises Refused where there is none, or it isn't one."""
    if not (directory / SUMMARY).is_file():
        raise refuse(BASELINE, f"there is no {SUMMARY} in {directory}", "the evaluate.output of an earlier evaluation")
    summary = read_json(directory / SUMMARY, BASELINE)
    if not isinstance(summary.get("protocol"), dict):
        raise refuse(BASELINE, f"{directory / SUMMARY} is no evaluation's summary", "give another directory")
    return summary


def read_results(directory: Path) -> list[dict[str, Any]]:
    """The lines of a directory's results.jsonl. Raises Refused."""
    file = directory / RESULTS
    try:
        return [json.loads(line) for line in file.read_text("utf-8").split("\n") if line]
    except (OSError, ValueError) as error:
        raise refuse(BASELINE, f"{file} can't be read: {error}", "give another directory") from None


def _first_samples(rows: Sequence[Mapping[str, Any]]) -> dict[str, bool]:
    return {str(row["task_id"]): bool(row["passed"]) for row in reversed(rows)}
