"""The results that are kept while an evaluation runs, so that the same command goes on after them.

Replicas of a model share a suite's problems: each keeps its own results in a file, and rank 0 puts them together. They
meet through these files, since on a CPU a collective fails where a rank waits for more than 30 s.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dscoder_exp.evaluation.results import RESULTS
from dscoder_exp.generation.answer_file import AnswerFile, Place, content_key, content_of, kept_answers, model_origin
from dscoder_exp.parallel.topology import Topology
from dscoder_exp.schema.config import Config

KEY = "evaluate.output"
POLL = 0.2  # seconds
# Keys of `evaluate` on which no answer and no verdict depends, or whose files' contents count instead
FREE_KEYS = ("source", "output", "completions", "baseline", "batch_size", "k", "sandbox", "jobs")
Answers = dict[Place, dict[str, Any]]


def origin_of(config: Config, suite: str) -> dict[str, Any]:
    """What the results depend on, by config key: a run goes on only where all of it is as it was."""
    evaluate = {f"evaluate.{name}": value for name, value in asdict(config.evaluate).items() if name not in FREE_KEYS}
    files = {f"evaluate.{name}": getattr(config.evaluate, name) for name in ("source", "completions")}
    contents = {content_key(key): content_of(path) for key, path in files.items() if path is not None}
    return {**model_origin(config), **evaluate, **contents, "evaluate.suite": suite}


def results_file(directory: Path, replica: int) -> Path:
    """Where a replica's results go: of the first one, those of all in the end."""
    return directory / (RESULTS if replica == 0 else f".replica-{replica}.jsonl")


def take_up(directory: Path, origin: Mapping[str, Any]) -> AnswerFile:
    """Open the results, on rank 0, with all that earlier runs have kept, whatever their replicas were.

    Raises:
        Refused: as AnswerFile does.
    """
    file = AnswerFile(directory / RESULTS, origin, KEY)
    for left in sorted(directory.glob(".replica-*.jsonl*")):
        output = left.with_name(left.name.removesuffix(".partial"))
        for place, answer in (kept_answers(output) if left != output else _read(left)).items():
            file.add(place, answer)
        left.unlink()
    return file


def open_part(directory: Path, replica: int, origin: Mapping[str, Any]) -> AnswerFile:
    """Open the file of another replica's results, on its first rank, once rank 0 has taken up what was there."""
    return AnswerFile(results_file(directory, replica), origin, KEY)


def finish_part(file: AnswerFile) -> None:
    """Tell the first replica that this one's problems are done."""
    file.finish({"row": row, "sample": sample, "answer": answer} for (row, sample), answer in file.answers.items())


def collect_parts(directory: Path, topology: Topology, file: AnswerFile) -> bool:
    """Wait for the other replicas' results, and add them to the first one's; False if there are no others."""
    parts = [results_file(directory, replica) for replica in range(1, topology.data)]
    for part in parts:
        _wait_for(part)
        for place, answer in _read(part).items():
            file.add(place, answer)
    for part in parts:
        part.unlink()
    return bool(parts)


def wait_for_results(directory: Path) -> None:
    """Wait until rank 0 has written the results of all."""
    _wait_for(directory / RESULTS)


def _wait_for(file: Path) -> None:
    while not file.exists():
        time.sleep(POLL)


def _read(part: Path) -> Answers:
    lines = [json.loads(line) for line in part.read_text("utf-8").split("\n") if line]
    return {(line["row"], line["sample"]): line["answer"] for line in lines}
