"""HumanEval's programs through the sandbox: how many pass, and in how many seconds, also on a busy machine.

PYTHONPATH=.:tests/support python bench/sandbox_humaneval.py HumanEval.jsonl [--busy 8] [--jobs 2] [--flips]

--busy: so many endless loops beside it. --flips: instead of the reference solutions, each of them with one operator
flipped, for every operator; lists those that no test sees.
"""

import argparse
import json
import multiprocessing
import os
import time
from collections import Counter
from pathlib import Path

from operator_flips import flips

from dscoder_exp.evaluation.programs import Program, Verdict
from dscoder_exp.evaluation.sandbox import Sandbox


def loop() -> None:
    while True:
        pass


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("source", type=Path)
    parser.add_argument("--busy", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--flips", action="store_true")
    arguments = parser.parse_args()
    programs: list[Program] = []
    lines: dict[tuple[str, int], str] = {}
    for row in map(json.loads, arguments.source.read_text().splitlines()):
        code, name = row["prompt"] + row["canonical_solution"], row["entry_point"]
        tests = f"{row['test']}\ncheck({name})\n"
        for number, (line, made) in enumerate(flips(code, name) if arguments.flips else [(0, code)]):
            programs.append(Program((row["task_id"], number), made, tests, name))
            lines[row["task_id"], number] = code.splitlines()[line - 1].strip()
    loops = [multiprocessing.Process(target=loop, daemon=True) for _ in range(arguments.busy)]
    for process in loops:
        process.start()
    begun = time.perf_counter()
    with Sandbox(arguments.jobs) as sandbox:
        outcomes = list(sandbox.run(programs))
        isolation = sandbox.isolation
    seconds = time.perf_counter() - begun
    for process in loops:
        process.kill()
    counts = ", ".join(f"{count} {verdict}" for verdict, count in Counter(o.verdict for o in outcomes).items())
    print(f"{len(programs)} programs, {arguments.jobs} at a time, in {seconds:.1f} s: {counts}")
    print(f"seconds of one: {sum(o.seconds for o in outcomes) / len(outcomes):.3f} on average; {isolation}")
    if arguments.flips:
        for outcome in sorted(outcomes, key=lambda one: one.key):
            if outcome.verdict == Verdict.PASSED:
                print(f"  passes with a flip in: {outcome.key[0]}: {lines[outcome.key]}")


if __name__ == "__main__":
    main()
