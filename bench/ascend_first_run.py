"""The first minutes on an Atlas server: what is there, and our smallest runs in rising order, in one file to send back.

    make ascend-first-run

`--device cpu` runs the same steps where there is no NPU, in fp32. A step that fails, or takes too long, doesn't end the
others. Exit code: 0 all steps held, 1 one didn't, 2 refused. docs/ascend.md says what to look at first.
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
PACKED = (".log", ".md", ".yaml", ".json")
LARGEST = 20 * 2**20  # bytes of a file that is packed


@dataclass(frozen=True)
class Outcome:
    """
    Attributes:
        told: what the step's check found, or why the step failed or was left out.
        through: its command ended with exit code 0, whatever the check says of it.
    """

    verdict: str
    seconds: float
    told: str
    through: bool = False


def main() -> int:
    arguments = _arguments()
    device, room = arguments.device, Path(arguments.output).resolve()
    if device == "ascend" and (problem := npu_problem(1)):
        return _refused(f"--device: {problem.what}", "a machine with NPUs, or make ascend-first-run DEVICE=cpu")
    if room.exists():
        return _refused(f"--output: {room} exists", "--output DIR, a new one")
    every = {step.name: step for step in plan(device, room)}
    if unknown := set(arguments.only or ()) - every.keys():
        return _refused(f"--only: no step is called {' or '.join(sorted(unknown))}", f"some of {', '.join(every)}")
    room.mkdir(parents=True)
    (room / "machine.md").write_text(report())
    outcomes: dict[str, Outcome] = {}
    for step in _chosen(every, arguments.only):
        print(f"{step.name}: {step.about} …", flush=True)
        left_out = _why_not(step, outcomes, device)
        outcomes[step.name] = outcome = Outcome(LEFT_OUT, 0, left_out) if left_out else _run(step, room)
        print(f"  {outcome.verdict}, {outcome.seconds:.0f} s: {outcome.told}", flush=True)
        (room / "summary.md").write_text(_summary(device, every, outcomes))
    print(f"\nto send back: {_pack(room)}")
    return int(any(outcome.verdict == FAILED for outcome in outcomes.values()))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=("ascend", "cpu"), default="ascend")
    parser.add_argument(
        "--output", default=f"ascend-first-run-{time.strftime('%Y%m%d-%H%M%S')}", help="a new directory"
    )
    parser.add_argument("--only", nargs="+", metavar="STEP", help="these steps, and what they need")
    return parser.parse_args()


def _refused(what: str, remedy: str) -> int:
    print(f"ascend_first_run: refused\n  - {what}\n      -> {remedy}", file=sys.stderr)
    return 2


def _chosen(every: dict[str, Step], only: Sequence[str] | None) -> list[Step]:
    """In the plan's order, each with the steps that it can't do without."""
    wanted = set(only or every)
    for step in reversed(every.values()):
        if step.name in wanted and step.needs is not None:
            wanted.add(step.needs)
    return [step for step in every.values() if step.name in wanted]


def _why_not(step: Step, outcomes: dict[str, Outcome], device: str) -> str | None:
    if device == "ascend" and (problem := npu_problem(step.cards)):
        return problem.what
    if step.needs is not None and not outcomes[step.needs].through:
        return f"{step.needs} wasn't through"
    return None


def _run(step: Step, room: Path) -> Outcome:
    """Run it in a process group of its own, which is killed at its limit; what it prints goes to room/NAME.log."""
    began, log = time.monotonic(), room / f"{step.name}.log"
    # CANN's own logs, else below ~/ascend; MindSpore's files, else where this was started.
    environment = os.environ | {"ASCEND_PROCESS_LOG_PATH": str(room / f"{step.name}.cann"), "GLOG_v": "2"}
    directory = room / f"{step.name}.cwd"
    directory.mkdir()
    code = None
    try:
        step.before()
        with log.open("w") as file:
            file.write(f"$ {shlex.join(step.command)}\n")
            file.flush()
            code = _wait(step.command, file.fileno(), environment, directory, step.limit)
        assert code is not None, f"not through after {step.limit} s"
        assert code == 0, f"exit code {code}; {_last_lines(log)}"
        told, verdict = step.check(log.read_text(errors="replace")), HELD
    except (AssertionError, OSError) as error:
        told, verdict = str(error), FAILED
    return Outcome(verdict, time.monotonic() - began, told, through=code == 0)


def _wait(command: Sequence[str], output: int, environment: dict[str, str], directory: Path, limit: int) -> int | None:
    """The exit code, None where the limit was reached."""
    process = subprocess.Popen(
        command, stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=directory, start_new_session=True
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
    lines += ["| step | what | verdict | s | told |", "| --- | --- | --- | --- | --- |"]
    for name, outcome in outcomes.items():
        told = outcome.told.replace("|", "/").replace("\n", " ")
        lines.append(f"| {name} | {every[name].about} | {outcome.verdict} | {outcome.seconds:.0f} | {told} |")
    return "\n".join([*lines, ""])


def _pack(room: Path) -> Path:
    """Texts alone: the checkpoints stay behind, and what is too large to send."""
    packed = room.with_name(f"{room.name}.tar.gz")
    with tarfile.open(packed, "w:gz") as archive:
        for file in sorted(room.rglob("*")):
            text = file.suffix in PACKED and file.is_file() and "checkpoints" not in file.parts
            if text and file.stat().st_size <= LARGEST:
                archive.add(file, Path(room.name) / file.relative_to(room))
    return packed


if __name__ == "__main__":
    sys.exit(main())
