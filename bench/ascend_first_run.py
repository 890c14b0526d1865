"""The first run on an Atlas server: reports the machine, tries small runs step by step, packs the logs into one file.

    make ascend-first-run

`--device cpu` runs the same steps without an NPU, in fp32. After a step that fails or takes too long the others still
run. Exit code: 0: no step failed, 1: a step failed, 2: refused. docs/ascend.md says what to look at first.
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from _first_run_machine import report
from _first_run_plan import Step, plan

from dscoder_exp.preflight.machine import npu_problem

HELD, FAILED, LEFT_OUT = "held", "FAILED", "left out"
PACKED_SUFFIXES = (".log", ".md", ".yaml", ".json")
MAX_PACKED_SIZE = 20 * 2**20  # bytes; larger files are not packed


@dataclass(frozen=True)
class Outcome:
    """How a step ended.

    message: the result of the step's check, or why the step failed or was left out
    completed: whether its command ended with exit code 0, whatever its check says
    """

    verdict: str
    seconds: float
    message: str
    completed: bool = False


def main() -> int:
    arguments = _arguments()
    device, output = arguments.device, Path(arguments.output).resolve()
    if device == "ascend" and (problem := npu_problem(1)):
        return _refused(f"--device: {problem.what}", "use a machine with NPUs, or make ascend-first-run DEVICE=cpu")
    if output.exists():
        return _refused(f"--output: {output} exists", "name a new directory: --output DIR")
    every = {step.name: step for step in plan(device, output)}
    if unknown := set(arguments.only or ()) - every.keys():
        return _refused(f"--only: no step is called {' or '.join(sorted(unknown))}", f"choose from {', '.join(every)}")
    output.mkdir(parents=True)
    (output / "machine.md").write_text(report())
    outcomes: dict[str, Outcome] = {}
    for step in _chosen(every, arguments.only):
        print(f"{step.name}: {step.about} …", flush=True)
        left_out = _why_left_out(step, outcomes, device)
        outcomes[step.name] = outcome = Outcome(LEFT_OUT, 0, left_out) if left_out else _run(step, output)
        print(f"  {outcome.verdict}, {outcome.seconds:.0f} s: {outcome.message}", flush=True)
        (output / "summary.md").write_text(_summary(device, every, outcomes))
    print(f"\nto send back: {_pack(output)}")
    return int(any(outcome.verdict == FAILED for outcome in outcomes.values()))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=("ascend", "cpu"), default="ascend")
    parser.add_argument(
        "--output", default=f"ascend-first-run-{time.strftime('%Y%m%d-%H%M%S')}", help="a new directory"
    )
    parser.add_argument("--only", nargs="+", metavar="STEP", help="only these steps and those that they need")
    return parser.parse_args()


def _refused(what: str, remedy: str) -> int:
    print(f"ascend_first_run: refused\n  - {what}\n      -> {remedy}", file=sys.stderr)
    return 2


def _chosen(every: dict[str, Step], only: Sequence[str] | None) -> list[Step]:
    """The steps named in `only` (None: all) and those that they need, in the plan's order."""
    wanted = set(only or every)
    for step in reversed(every.values()):
        if step.name in wanted and step.needs is not None:
            wanted.add(step.needs)
    return [step for step in every.values() if step.name in wanted]


def _why_left_out(step: Step, outcomes: dict[str, Outcome], device: str) -> str | None:
    """Why the step can't run; None: it can."""
    if device == "ascend" and (problem := npu_problem(step.cards)):
        return problem.what
    if step.needs is not None and not outcomes[step.needs].completed:
        return f"{step.needs} didn't complete"
    return None


def _run(step: Step, output: Path) -> Outcome:
    """Run a step in its own process group, which is killed after step.limit; its output goes to output/NAME.log."""
    began, log = time.monotonic(), output / f"{step.name}.log"
    # CANN's logs would go below ~/ascend, and MindSpore's files into the current directory.
    environment = os.environ | {"ASCEND_PROCESS_LOG_PATH": str(output / f"{step.name}.cann"), "GLOG_v": "2"}
    directory = output / f"{step.name}.cwd"
    directory.mkdir()
    code = None
    try:
        step.before()
        with log.open("w") as file:
            file.write(f"$ {shlex.join(step.command)}\n")
            file.flush()
            code = _wait(step.command, file.fileno(), environment, directory, step.limit)
        assert code is not None, f"still running after {step.limit} s"
        assert code == 0, f"exit code {code}; {_last_lines(log)}"
        message, verdict = step.check(log.read_text(errors="replace")), HELD
    except (AssertionError, OSError) as error:
        message, verdict = str(error), FAILED
    return Outcome(verdict, time.monotonic() - began, message, completed=code == 0)


def _wait(command: Sequence[str], log: int, environment: dict[str, str], directory: Path, limit: int) -> int | None:
    """The exit code; None: killed after `limit` seconds."""
    process = subprocess.Popen(
        command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=directory, start_new_session=True
    )
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _last_lines(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return " / ".join(lines[-3:])[:400]


def _summary(device: str, every: dict[str, Step], outcomes: dict[str, Outcome]) -> str:
    lines = [f"# First run on {device}, {time.strftime('%Y-%m-%d %H:%M')}", ""]
    lines += ["| step | what | verdict | s | result |", "| --- | --- | --- | --- | --- |"]
    for name, outcome in outcomes.items():
        message = outcome.message.replace("|", "/").replace("\n", " ")
        lines.append(f"| {name} | {every[name].about} | {outcome.verdict} | {outcome.seconds:.0f} | {message} |")
    return "\n".join([*lines, ""])


def _pack(output: Path) -> Path:
    """Pack logs and texts into NAME.tar.gz, without checkpoints and large files."""
    packed = output.with_name(f"{output.name}.tar.gz")
    with tarfile.open(packed, "w:gz") as archive:
        for file in sorted(output.rglob("*")):
            text = file.suffix in PACKED_SUFFIXES and file.is_file() and "checkpoints" not in file.parts
            if text and file.stat().st_size <= MAX_PACKED_SIZE:
                archive.add(file, Path(output.name) / file.relative_to(output))
    return packed


if __name__ == "__main__":
    sys.exit(main())
