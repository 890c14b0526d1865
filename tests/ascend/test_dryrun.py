"""The dry run's own parts: table of supported dtypes, figures, collectives between ranks, build of the stand-ins."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from dryrun import CollectiveCount, CopyCount, DryRun, Figures, Launch, Record, Row, Table, build, dry_run
from dryrun.record import read_records
from recipe_7b import make_sparse_weights
from safetensors import safe_open

EXCHANGE = Path(__file__).with_name("exchange.py")
OVERLAPPED = 3  # kernels that exchange.py launches while a collective runs
MATMUL = Row(("aclnnMm",), "a page", {"0": ["bf16", "fp32"]}, same=(0, 1, 2))
CONCAT = Row(("aclnnCat",), "a page", {"0": ["bf16", "fp32"]})


def launched(name: str, dtypes: str) -> Launch:
    return Launch(name, dtypes, shapes="", count=1, executors=1)


def record(**given: object) -> Record:
    empty = {"copies": {}, "waits": {}, "collectives": {}, "errors": (), "fused": 0, "others": {}, "launches": ()}
    return Record(**{"rank": 0, "runtime_peak": 1, "pool_peak": 1, "pool_reserved": 1, **empty, **given})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("row", "dtypes", "wrong"),
    [
        (MATMUL, "bf16 bf16 bf16", []),
        (MATMUL, "int8 int8 int8", ["argument 0 is int8, not one of bf16, fp32"]),
        (MATMUL, "bf16 bf16 fp32", ["arguments 0, 1, 2 differ: bf16, fp32"]),
        (CONCAT, "{bf16 bf16} bf16", []),
        (CONCAT, "{fp32 fp16} fp32", ["argument 0 is fp16, not one of bf16, fp32"]),
    ],
)
def test_a_row_lists_a_launchs_unsupported_dtypes(row: Row, dtypes: str, wrong: list[str]) -> None:
    assert row.unsupported(dtypes) == wrong


def test_the_table_lists_violations_with_their_source_and_operators_without_a_row() -> None:
    table = Table([MATMUL])
    launches = [
        launched("aclnnMm", "int8 int8 int8"),
        launched("aclnnNew", "bf16"),
        launched("aclnnMm", "fp32 fp32 fp32"),
    ]
    assert table.violations(launches) == [
        "aclnnMm(int8 int8 int8): argument 0 is int8, not one of bf16, fp32 -- a page"
    ]
    assert table.missing(launches) == ["aclnnNew"]
    with pytest.raises(ValueError, match="aclnnMm has two rows"):
        Table([MATMUL, MATMUL])


def test_the_table_refuses_bf16_scatter_add(table: Table) -> None:
    found = table.violations([launched("aclop ScatterAdd", "bf16 int32 bf16 bf16")])
    assert len(found) == 1
    assert "argument 0 is bf16" in found[0]


def test_a_steps_figures_are_the_difference_of_two_runs() -> None:
    def run(steps: int) -> Figures:
        copies = {
            "host to device": CopyCount(10 + 3 * steps, 1000 + 8 * steps),
            "device to host": CopyCount(steps, 4 * steps),
        }
        launches = (Launch("aclnnMm", "", "", 5 * steps, 1), Launch("aclnnAdd", "", "", 7, 1))
        waits = {"stream": 2 * steps, "device": 9}
        return record(
            copies=copies, launches=launches, waits=waits, collectives={"AllReduce": CollectiveCount(steps, 8)}
        ).figures

    assert run(6).per_step_from(run(2), 4) == Figures(5, 3, 8, 1, 4, 2, 1)


def test_a_missing_record_an_exit_status_and_recorded_errors_are_problems(table: Table) -> None:
    assert "nothing was recorded" in DryRun(0, "", ()).problems(table)[0]
    assert "exit status 1: ...the end" in DryRun(1, "the end", (record(),)).problems(table)[0]
    errors = DryRun(0, "", (record(rank=3, errors=("a copy to nowhere",)),)).problems(table)
    assert errors == ["rank 3: a copy to nowhere"]


def test_calls_of_unsupported_functions_are_errors(tmp_path: Path) -> None:
    raw = {"rank": 1, "peak": 5, "notes": {"max_memory_allocated": 3.0}, "copies": {"host to device": [1, 2]}}
    raw |= {"waits": {}, "collectives": {}, "errors": [], "others": {"HcclSend": 2, "aclInit": 1}}
    raw |= {"kernels": [["aclnnMm", "bf16 bf16 bf16", "[1,1] [1,1] [1,1]", 4, 2]]}
    (tmp_path / "7.json").write_text(json.dumps(raw))
    (found,) = read_records(tmp_path)
    assert found.errors == ("HcclSend was called 2 times, and the stand-ins don't implement it",)
    assert found.launches == (Launch("aclnnMm", "bf16 bf16 bf16", "[1,1] [1,1] [1,1]", count=4, executors=2),)
    assert (found.rank, found.pool_peak, found.pool_reserved, found.copies) == (
        1,
        3,
        None,
        {"host to device": CopyCount(1, 2)},
    )


def test_another_machine_gets_the_reason_why_dry_runs_are_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert build.missing_requirement() == "dry runs need Linux on x86-64"


BUILD = """
from pathlib import Path
from time import sleep
from dryrun import build

def small(target: Path) -> None:
    target.mkdir(parents=True)
    sleep(0.5)  # so that the other one builds meanwhile
    (target / build.LIBRARY).touch()

build._build = small
print(build.stand_ins())
"""


@pytest.mark.slow
def test_two_processes_may_build_at_once(tmp_path: Path) -> None:
    """Something that takes less time than the stand-ins."""
    paths = os.pathsep.join([str(EXCHANGE.parent), os.environ.get("PYTHONPATH", "")])
    variables = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": paths}
    command = [sys.executable, "-c", BUILD]
    both = [subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    first, second = (process.communicate(timeout=300)[0].strip() for process in both)
    assert first == second
    assert (Path(first) / "lib64" / build.LIBRARY).exists()
    assert list((tmp_path / "dscoder_exp" / "ascend_dryrun").iterdir()) == [Path(first).parent]


@pytest.mark.slow
def test_small_collectives_compute_their_results(
    cards: None, table: Table, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """Asynchronous ones; a kernel's result reads as zeros."""
    folder = Path(sys.executable).parent
    ranks = ["--worker_num=2", "--local_worker_num=2", "--join=True", f"--log_dir={tmp_path}"]
    command = [
        str(folder / "msrun"),
        *ranks,
        f"--master_port={free_port()}",
        str(EXCHANGE),
        str(tmp_path),
        str(OVERLAPPED),
    ]
    variables = {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}  # msrun starts `python` from PATH
    run = dry_run(command, environment=variables, directory=tmp_path, timeout=300)
    assert run.problems(table) == []
    same = {
        "sum Float32": [3, 30],
        "sum Int32": [3, 30],
        "max": [1, 0],
        "gathered": [0, 5, 1, 6],
        "broadcast": [8],
        "min": [1],
    }
    for rank, part in enumerate(([2, 4], [6, 8])):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found == {**same, "part": part, "computed": [0]}
        collectives = run.records[rank].collectives
        assert collectives["ReduceScatter fp32 of 2"] == CollectiveCount(1, 16, overlapped=0)
        assert collectives["AllReduce fp32 of 2"].overlapped == OVERLAPPED


def test_the_recipes_weights_are_a_sparse_file_of_the_right_shapes(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    make_sparse_weights(file, {"a": (1000, 1000, 5), "b": (3,)})
    assert file.stat().st_size > 10_000_000
    assert file.stat().st_blocks * 512 < 100_000
    with safe_open(file, "numpy") as tensors:
        assert tensors.get_slice("a").get_shape() == [1000, 1000, 5]
        assert tensors.get_slice("b").get_dtype() == "BF16"
