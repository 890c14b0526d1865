"""One dry run, summed up: PYTHONPATH=tests/ascend python -m dryrun -- python -m dscoder_exp +experiment=finetune_8k …

Prints a line a rank, and what a card would not take. The exit status is the command's; 1 where something is wrong.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from . import Record, Table, dry_run, why_not
from .command import CARD_GIB

MB, GB = 1e6, 1e9


def line(record: Record) -> str:
    f = record.figures
    pool = f"{record.pool_peak / GB:.2f}" if record.pool_peak is not None else "?"
    up, down = f"{f.h2d:7.0f} {f.h2d_bytes / MB:10.2f}", f"{f.d2h:7.0f} {f.d2h_bytes / MB:10.2f}"
    met, peak = f"{f.waits:7.0f} {f.collectives:6.0f}", f"{record.runtime_peak / GB:9.2f} {pool:>9}"
    return f"{record.rank:4} {f.launches:9.0f} {up} {down} {met} {peak}"


HEAD = "rank  launches     H2D         MB     D2H         MB   waits   HCCL   peak GB   pool GB"


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m dryrun", description=__doc__)
    parser.add_argument(
        "--gib", type=float, default=CARD_GIB, help="memory of a card; give more to learn how much it takes"
    )
    parser.add_argument("--record", type=Path, help="a JSON file for all that was recorded")
    parser.add_argument("--kernels", action="store_true", help="print the launches of rank 0 by kernel and dtypes, too")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args(words)
    args.command = args.command[args.command[:1] == ["--"] :]
    if not args.command:
        parser.error("give the command after --")
    return args


def main(words: list[str]) -> int:
    args = parse(words)
    if (reason := why_not()) is not None:
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
