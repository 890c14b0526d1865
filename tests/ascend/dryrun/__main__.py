"""Summarizes one dry run: PYTHONPATH=tests/ascend python -m dryrun -- python -m dscoder_exp +experiment=finetune_8k …

Prints a line per rank, and every problem, such as dtypes that a card doesn't support. The exit status is the command's,
or 1 where it is 0 and there are problems.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from . import Record, Table, dry_run, unavailable_reason
from .command import CARD_GIB

MB, GB = 1e6, 1e9


def line(record: Record) -> str:
    f = record.figures
    pool = f"{record.pool_peak / GB:.2f}" if record.pool_peak is not None else "?"
    up, down = f"{f.h2d:7.0f} {f.h2d_bytes / MB:10.2f}", f"{f.d2h:7.0f} {f.d2h_bytes / MB:10.2f}"
    host, peak = f"{f.waits:7.0f} {f.collectives:6.0f}", f"{record.runtime_peak / GB:9.2f} {pool:>9}"
    return f"{record.rank:4} {f.launches:9.0f} {up} {down} {host} {peak}"


HEAD = "rank  launches     H2D         MB     D2H         MB   waits   HCCL   peak GB   pool GB"


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m dryrun", description=__doc__)
    parser.add_argument(
        "--gib",
        type=float,
        default=CARD_GIB,
        help="memory of a card in GiB; raise it to measure a command that needs more",
    )
    parser.add_argument("--record", type=Path, help="write the whole record to this JSON file")
    parser.add_argument("--kernels", action="store_true", help="also print rank 0's launches by kernel and dtypes")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args(arguments)
    args.command = args.command[args.command[:1] == ["--"] :]
    if not args.command:
        parser.error("the command is missing; put it after --")
    return args


def main(arguments: list[str]) -> int:
    args = parse(arguments)
    if (reason := unavailable_reason()) is not None:
        print(reason, file=sys.stderr)
        return 2
    run = dry_run(args.command, gib=args.gib, timeout=3600)
    print(run.output)
    print("\n".join([HEAD, *map(line, run.records)]))
    for launch in run.records[0].launches if args.kernels and run.records else ():
        print(f"{launch.count:7} {launch.name} ({launch.dtypes}) {launch.shapes}")
    problems = run.problems(Table.read())
    print(*(f"PROBLEM: {problem}" for problem in problems), sep="\n")
    if args.record:
        args.record.write_text(json.dumps([asdict(record) for record in run.records], indent=1) + "\n")
    return run.status or int(bool(problems))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
