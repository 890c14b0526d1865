"""What runs have written: the reports on their data, and their answers to prompts."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dscoder_exp.comparison.runs import ComparedRun

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

log = logging.getLogger(__name__)
ANSWERS = "predictions/answers.json"  # of task=predict: a table with the columns prompt and answer
TRAINED = "predictions/after.md"  # of task=train
DATA_REPORT = "data.json"
PREPARING = ("data.", "tokenizer.", "seq_length", "model.path", "model.template")  # beginnings of keys
MAX_DATA_SETS = 12
RUNS_WITH_ANSWERS = 8  # the best ones, whose answers are shown
MAX_PROMPTS = 20
MAX_TEXT = 4000  # characters of an answer
NOT_FIGURES = ("lengths", "examples", "made_from", "files", "bad_examples")


@dataclass(frozen=True)
class DataSet:
    """Prepared data that runs trained on.

    Attributes:
        runs: their places.
        figures: name -> value, as in data.json.
    """

    runs: Sequence[int]
    figures: Mapping[str, Any]


@dataclass(frozen=True)
class Answers:
    """Answers of several runs to the same prompts.

    Attributes:
        runs: the places of the runs.
        prompts: those that any of the runs answered.
        texts: a row a prompt, a column a run; None where a run has no answer to it.
    """

    runs: Sequence[int]
    prompts: Sequence[str]
    texts: Sequence[Sequence[str | None]]


def data_sets(client: MlflowClient, runs: Sequence[ComparedRun]) -> list[DataSet]:
    """The prepared data of the runs, each once, from the data.json of one of its runs; at most MAX_DATA_SETS.

    Runs have the same data if the rows and all keys that preparing reads are the same.
    """
    places: dict[tuple[str, ...], list[int]] = {}
    for place, run in enumerate(runs):
        if run.data is not None:
            keys = [f"{key}={value}" for key, value in run.params.items() if key.startswith(PREPARING)]
            places.setdefault((run.data, *sorted(keys)), []).append(place)
    found: dict[str, DataSet] = {}
    for same in list(places.values())[:MAX_DATA_SETS]:
        if (text := _artifact(client, runs[same[0]], DATA_REPORT)) is None:
            continue
        figures = {name: value for name, value in json.loads(text).items() if name not in NOT_FIGURES}
        known = found.get(str(figures["fingerprint"]))
        found[str(figures["fingerprint"])] = DataSet([*(known.runs if known else []), *same], figures)
    return list(found.values())


def answers(client: MlflowClient, runs: Sequence[ComparedRun], places: Sequence[int]) -> Answers | None:
    """The answers that these runs logged; None if there are none."""
    by_run = {place: dict(_answers_of(client, runs[place])) for place in places}
    by_run = {place: found for place, found in by_run.items() if found}
    prompts = list(dict.fromkeys(prompt for found in by_run.values() for prompt in found))[:MAX_PROMPTS]
    if not prompts:
        return None
    texts = [[_shortened(found.get(prompt)) for found in by_run.values()] for prompt in prompts]
    return Answers(list(by_run), prompts, texts)


def _answers_of(client: MlflowClient, run: ComparedRun) -> Iterator[tuple[str, str]]:
    """Prompts and answers, of several answers to a prompt the first: the table of task=predict, or what task=train
    wrote after training.
    """
    if "predict/answers" in run.metrics and (text := _artifact(client, run, ANSWERS)):
        table = json.loads(text)
        rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
        yield from ((str(row["prompt"]), str(row["text"])) for row in reversed(rows))
    elif "train/loss" in run.metrics and (text := _artifact(client, run, TRAINED)):
        prompts = json.loads(run.params.get("train.prompts", "[]"))
        for number, prompt in enumerate(prompts):  # an answer may hold headings of its own
            rest = text.partition(f"## {prompt}\n\n")[2]
            end = f"\n## {prompts[number + 1]}\n\n" if number + 1 < len(prompts) else None
            yield prompt, (rest.partition(end)[0] if end else rest).strip("\n")


def _artifact(client: MlflowClient, run: ComparedRun, path: str) -> str | None:
    """The text of an artifact; None where the run has none, or it can't be read."""
    from mlflow.exceptions import MlflowException

    with tempfile.TemporaryDirectory() as directory:
        try:
            return Path(client.download_artifacts(run.id, path, directory)).read_text(encoding="utf-8")
        except (MlflowException, OSError, ValueError) as error:
            log.debug("no %s of run %s: %s", path, run.id, error)
            return None


def _shortened(text: str | None) -> str | None:
    return text if text is None or len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]} […]"
