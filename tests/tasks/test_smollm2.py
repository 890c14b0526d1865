"""The pretrained SmolLM2: greedy ids as in PyTorch, and a shortened quickstart."""

import json
import re
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest
from processes import Ended, Started
from tasks_support import SMOLLM2, Workspace, succeeded

pytestmark = pytest.mark.slow

QUICKSTART = ["+experiment=quickstart", "train.max_steps=3", "train.max_eval_sequences=1", "train.prompt_tokens=4"]
LIMIT = 5 * 1024**3  # bytes; a laptop has 8 GB


@pytest.fixture(scope="module")
def llm() -> Any:
    from dscoder_exp import load

    return load(SMOLLM2)


@pytest.mark.parametrize("number", range(4))
def test_greedy_ids_are_pytorchs(llm: Any, shared_data: Path, number: int) -> None:
    reference = json.loads((shared_data / "parity" / "smollm2" / "reference.json").read_text())
    assert len(reference["prompts"]) == 4
    prompt = reference["prompts"][number]
    assert llm.tokenizer.encode(prompt["prompt"]).ids == prompt["input_ids"]
    assert len(prompt["greedy_new_ids_no_eos_stop"]) == 64
    (ids,) = llm.generate([prompt["input_ids"]], 64, ignore_eos=True)
    assert ids == prompt["greedy_new_ids_no_eos_stop"]


def peak_memory(started: Started) -> tuple[Ended, int]:
    """Wait for a command; returns how it ended, and the peak memory of its processes together, in bytes."""
    peak = 0
    ended = threading.Event()

    def sample() -> None:
        nonlocal peak
        while not ended.wait(0.25):
            total = 0
            for process in started.processes():
                try:
                    total += process.memory_info().rss
                except psutil.Error:
                    continue
            peak = max(peak, total)

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        return started.wait(), peak
    finally:
        ended.set()
        sampler.join()


def losses_of(ended: Ended) -> tuple[float, float]:
    (found,) = re.findall(r"^eval loss +([\d.]+) -> ([\d.]+) nats a token$", ended.out, re.MULTILINE)
    return float(found[0]), float(found[1])


def test_the_quickstart_learns_in_little_memory_and_can_be_repeated(empty_workspace: Workspace) -> None:
    started = empty_workspace.start(*QUICKSTART)
    ended, peak = peak_memory(started)
    succeeded(ended)
    before, after = losses_of(ended)
    assert after < before < 5  # less than 5: the model is pretrained
    assert 1024**3 / 2 < peak < LIMIT
    run = empty_workspace.run("quickstart")
    assert run.status == "FINISHED"
    assert run.metrics["train/loss"].keys() == {1, 2, 3}
    assert {path.name for path in (run.artifacts / "predictions").iterdir()} == {"before.md", "after.md"}

    again = succeeded(empty_workspace(*QUICKSTART, "tracking=off", "train.prompts=[]"))
    assert "found in" in again.out
    assert losses_of(again) == (before, after)
