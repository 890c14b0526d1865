"""Preparing a data set: what is written, reused, prepared again and refused."""

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
from data_support import EOS, config, format_named, text_setup, write_rows
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from dscoder_exp.data import mindrecord
from dscoder_exp.data import prepare as module
from dscoder_exp.data.batch import Batch
from dscoder_exp.data.loader import eval_batches, load
from dscoder_exp.data.prepare import prepare
from dscoder_exp.data.report import Prepared
from dscoder_exp.data.rows import Conversation, exchange
from dscoder_exp.data.source import Source
from dscoder_exp.data.split import document_hashes, hold_out
from dscoder_exp.schema.config import DataConfig
from dscoder_exp.schema.errors import Refused
from dscoder_exp.weights.tokenizer import fingerprint

FILES = {"data.json", "eval.mindrecord", "eval.mindrecord.db", "train.mindrecord", "train.mindrecord.db"}
SEQ_LENGTH = 256


@pytest.fixture
def source(tmp_path: Path, rows: list[Conversation]) -> Path:
    return write_rows(tmp_path / "rows.json", rows)


def run(
    data: DataConfig, tokenizer: Tokenizer, tmp_path: Path, *, seq_length: int = SEQ_LENGTH, **ids: Any
) -> Prepared:
    return prepare(data, text_setup(tokenizer, **ids), seq_length=seq_length, cache_dir=tmp_path / "cache")


def refusal(data: DataConfig, tokenizer: Tokenizer, tmp_path: Path, **changes) -> tuple[str, str]:
    with pytest.raises(Refused) as caught:
        run(data, tokenizer, tmp_path, **changes)
    (problem,) = caught.value.problems
    assert problem.remedy
    return problem.where, problem.what


def whole(prepared: Prepared, split: str) -> Batch:
    """All sequences of a split."""
    sequences = load(prepared, split)
    (batch,) = eval_batches(sequences, len(sequences))
    return batch


def texts(batch: Batch, tokenizer: Tokenizer) -> list[str]:
    """Each document's text, special tokens included."""
    found = []
    for ids, numbers in zip(batch.ids, batch.documents, strict=True):
        for number in range(numbers.max() + 1):
            found.append(tokenizer.decode(ids[numbers == number].tolist(), skip_special_tokens=False))
    return found


def test_files_report_and_content_agree(
    source: Path, tokenizer: Tokenizer, tmp_path: Path, rows: list[Conversation]
) -> None:
    prepared = run(config(source), tokenizer, tmp_path)
    report = prepared.report
    assert not prepared.reused
    assert prepared.directory == tmp_path / "cache" / "data" / report.fingerprint
    assert {file.name for file in prepared.directory.iterdir()} == FILES
    assert [file.name for file in prepared.directory.parent.iterdir()] == [report.fingerprint]
    assert json.loads((prepared.directory / "data.json").read_text()).items() >= vars(report).items()

    train, held_out = whole(prepared, "train"), whole(prepared, "eval")
    assert (report.rows, report.kept, report.dropped, report.truncated, report.duplicates) == (60, 60, 0, 0, 0)
    assert (report.sequences, report.eval_sequences) == (len(train), len(held_out))
    assert (report.tokens, report.loss_tokens) == (train.useful_tokens, train.loss_tokens)
    assert (report.eval_tokens, report.eval_loss_tokens) == (held_out.useful_tokens, held_out.loss_tokens)
    assert report.useful_fraction == train.useful_tokens / train.ids.size
    assert report.loss_fraction == train.loss_tokens / train.ids.size
    found = texts(train, tokenizer), texts(held_out, tokenizer)
    assert (len(found[0]), len(found[1])) == (report.train_rows, report.eval_rows)
    prompt_format = format_named("deepseek_coder", tokenizer)
    assert sorted(found[0] + found[1]) == sorted(prompt_format.conversation(row).text for row in rows)
    assert (report.prompt_format, report.prompt_format_origin) == ("deepseek_coder", "data.template")


def test_a_source_inside_a_package(
    tokenizer: Tokenizer, tmp_path: Path, rows: list[Conversation], monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "some_package"
    package.mkdir()
    (package / "__init__.py").touch()
    write_rows(package / "rows.json", rows)
    monkeypatch.syspath_prepend(tmp_path)
    assert run(config("pkg://some_package/rows.json"), tokenizer, tmp_path).report.rows == len(rows)


def test_home_in_paths(source: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # a shell leaves the ~ in data.source=~/rows.json as it is
    data = config("~/rows.json", output="~/prepared")
    assert run(data, tokenizer, tmp_path).directory == tmp_path / "prepared"


def test_code_alpaca(shared_data: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(shared_data / "tokenizers" / "deepseek-llm-7b" / "tokenizer.json"))
    source = shared_data / "code_alpaca" / "code_alpaca_2k.json"
    ids = {"bos": 100000, "eos": 100001, "pad": 100001}
    prepared = run(config(source, eval_fraction=0.1), tokenizer, tmp_path, seq_length=8192, **ids)
    report = prepared.report
    assert (report.rows, report.kept, report.blank) == (2017, 2015, 2)  # two rows have no answer
    assert report.rows == report.kept + report.dropped
    assert report.kept == report.train_rows + report.eval_rows
    assert 0.07 < report.eval_rows / report.kept < 0.13
    positions = report.sequences * 8192
    assert report.useful_fraction == report.tokens / positions > 0.97  # unpacked it would be 0.02
    assert report.loss_fraction == report.loss_tokens / positions < report.useful_fraction

    begins = ends = useful = counted = answers = 0
    for split in ("train", "eval"):
        for batch in eval_batches(load(prepared, split), 16):
            within = batch.documents >= 0
            useful += batch.useful_tokens
            counted += batch.loss_tokens
            begins += (within & (batch.ids == 100000)).sum()
            ends += (within & (batch.ids == 100001)).sum()
            answers += (batch.labels == 100001).sum()
    assert begins == ends == answers == report.kept  # each document is whole, and its eos is a label
    assert useful == report.tokens + report.eval_tokens
    assert counted == report.loss_tokens + report.eval_loss_tokens


def test_without_packing_each_sequence_holds_one_document(source: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    report = run(config(source, packing=False), tokenizer, tmp_path).report
    assert report.sequences + report.eval_sequences == 60
    packed = run(config(source), tokenizer, tmp_path).report
    assert packed.sequences < report.sequences
    assert packed.tokens == report.tokens  # the same rows are held out


def test_blank_overlong_and_repeated_rows(tokenizer: Tokenizer, tmp_path: Path, rows: list[Conversation]) -> None:
    source = write_rows(
        tmp_path / "rows.json",
        [*rows, rows[0], rows[0], exchange("Say nothing.", "", " \n"), exchange("Count.", "", "one two three " * 200)],
    )
    dropped = run(config(source), tokenizer, tmp_path).report
    assert (dropped.rows, dropped.kept, dropped.dropped) == (64, 62, 2)
    assert (dropped.blank, dropped.truncated, dropped.duplicates) == (1, 0, 2)
    cut = run(config(source, overlong="truncate"), tokenizer, tmp_path).report
    assert (cut.kept, cut.dropped, cut.truncated, cut.longest) == (63, 1, 1, SEQ_LENGTH)
    bounded = run(config(source, overlong="truncate"), tokenizer, tmp_path, context=200).report
    assert bounded.longest == 200
    first = run(config(source, max_rows=10), tokenizer, tmp_path).report
    assert (first.rows, first.kept) == (10, 10)


def test_nothing_held_out(source: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    prepared = run(config(source, eval_fraction=0.0), tokenizer, tmp_path)
    assert {file.name for file in prepared.directory.iterdir()} == FILES - {"eval.mindrecord", "eval.mindrecord.db"}
    assert prepared.report.eval_sequences == len(load(prepared, "eval")) == 0
    assert list(eval_batches(load(prepared, "eval"), 4)) == []


def test_reused_unless_something_changes(
    source: Path, tokenizer: Tokenizer, tmp_path: Path, rows: list[Conversation]
) -> None:
    first = run(config(source), tokenizer, tmp_path)
    again = run(config(source), tokenizer, tmp_path)
    assert again == Prepared(first.directory, first.report, reused=True)
    copied = write_rows(tmp_path / "copy.json", rows)  # the content counts, not its name
    assert run(config(copied), tokenizer, tmp_path).reused

    other = Tokenizer.from_str(tokenizer.to_str())
    other.add_tokens(["number"])
    changed = [
        run(config(source, loss="all"), tokenizer, tmp_path),
        run(config(source, template="chatml"), tokenizer, tmp_path),
        run(config(source, eval_fraction=0.2), tokenizer, tmp_path),
        run(config(source), other, tmp_path),
        run(config(source), tokenizer, tmp_path, seq_length=300),
        run(config(source), tokenizer, tmp_path, pad=EOS),
        run(config(write_rows(tmp_path / "fewer.json", rows[1:])), tokenizer, tmp_path),
    ]
    assert not any(prepared.reused for prepared in changed)
    assert len({prepared.directory for prepared in [first, *changed]}) == 8


@pytest.mark.parametrize("damage", ["no report", "no file", "short file"])
def test_incomplete_data_is_prepared_again(source: Path, tokenizer: Tokenizer, tmp_path: Path, damage: str) -> None:
    first = run(config(source), tokenizer, tmp_path)
    before = whole(first, "train")
    if damage == "no report":
        (first.directory / "data.json").unlink()
    elif damage == "no file":
        (first.directory / "train.mindrecord").unlink()
    else:
        os.truncate(first.directory / "train.mindrecord", 1000)
    second = run(config(source), tokenizer, tmp_path)
    assert second == first
    assert (whole(second, "train").ids == before.ids).all()
    assert [file.name for file in first.directory.parent.iterdir()] == [first.directory.name]


KILLED = """
import os, pickle, signal, sys
from dscoder_exp.data import prepare as module
module.write_report = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
data, text, arguments = pickle.load(sys.stdin.buffer)
module.prepare(data, text, **arguments)
"""


def test_files_of_a_killed_process_are_removed(source: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    output = tmp_path / "prepared"
    data = config(source, output=str(output))
    given = pickle.dumps((data, text_setup(tokenizer), {"seq_length": SEQ_LENGTH, "cache_dir": tmp_path / "cache"}))
    ended = subprocess.run([sys.executable, "-c", KILLED], input=given, capture_output=True, timeout=120, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    partial = tmp_path / ".prepared.partial"
    assert not output.exists()
    assert (partial / "train.mindrecord").exists()

    prepared = run(data, tokenizer, tmp_path)
    assert not prepared.reused
    assert prepared.directory == output
    assert {file.name for file in output.iterdir()} == FILES
    assert not partial.exists()
    assert not (tmp_path / "cache").exists()


def test_an_interrupt_leaves_no_files(
    source: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_report", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(config(source), tokenizer, tmp_path)
    assert not (tmp_path / "cache").exists()


def test_of_two_at_once_only_one_prepares(
    source: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    barrier, parse = Barrier(2), Source.rows

    def parse_together(source, *given, **options):  # when both have looked for the data and not found it
        barrier.wait(60)
        return parse(source, *given, **options)

    monkeypatch.setattr(Source, "rows", parse_together)
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(run, config(source), tokenizer, tmp_path) for _ in range(2)]
        first, second = (each.result(120) for each in both)
    assert first.report == second.report
    assert {first.reused, second.reused} == {False, True}
    assert [file.name for file in first.directory.parent.iterdir()] == [first.directory.name]


def test_refused_sources(tokenizer: Tokenizer, tmp_path: Path) -> None:
    assert refusal(config(None), tokenizer, tmp_path) == ("data.source", "no data set is given")
    missing = tmp_path / "none.json"
    assert refusal(config(missing), tokenizer, tmp_path) == (
        "data.source",
        f"no such file or directory: {str(missing)!r}",
    )
    assert refusal(config("pkg://nowhere/rows.json"), tokenizer, tmp_path) == (
        "data.source",
        "pkg://nowhere/rows.json: the package nowhere is not installed",
    )
    source = write_rows(tmp_path / "rows.json", [exchange("Say nothing.", "", ""), exchange("Count.", "", "one " * 99)])
    assert refusal(config(source), tokenizer, tmp_path, seq_length=64) == (
        "data.source",
        f"no row can be kept: of 2 rows, 1 are blank and 1 exceed 64 tokens with their prompt: {source}",
    )
    assert [file.name for file in tmp_path.iterdir()] == ["rows.json"]


def test_a_refusal_waits_for_the_import(
    tokenizer: Tokenizer, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python aborts with two tracebacks if it ends amid MindSpore's import."""
    monkeypatch.setattr(mindrecord, "import_module", lambda name: time.sleep(0.5))
    refusal(config(source), tokenizer, tmp_path, seq_length=8)
    assert "mindrecord-import" not in {thread.name for thread in threading.enumerate()}


def test_refused_outputs(source: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    file, foreign = tmp_path / "file", tmp_path / "foreign"
    file.write_text("mine")
    foreign.mkdir()
    (foreign / "data.json").write_text('{"rows": 3}')
    assert refusal(config(source, output=str(file)), tokenizer, tmp_path) == (
        "data.output",
        f"is a file, not a directory: {file}",
    )
    assert refusal(config(source, output=str(foreign)), tokenizer, tmp_path) == (
        "data.output",
        f"holds something other than prepared data: {foreign}",
    )
    under_a_file = file / "prepared"
    assert refusal(config(source, output=str(under_a_file)), tokenizer, tmp_path) == (
        "data.output",
        f"cannot be written: {file} (Not a directory)",
    )
    assert (file.read_text(), (foreign / "data.json").read_text()) == ("mine", '{"rows": 3}')


def test_output_with_other_settings_is_refused(source: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    output = tmp_path / "prepared"
    output.mkdir()  # an empty directory is fine
    first = run(config(source, output=str(output)), tokenizer, tmp_path)
    assert run(config(source, output=str(output)), tokenizer, tmp_path).reused
    changed = config(source, output=str(output), template="chatml", loss="all")
    assert refusal(changed, tokenizer, tmp_path, seq_length=300, context=200) == (
        "data.output",
        "holds data prepared with other settings (template deepseek_coder there, chatml now, "
        f'loss "response" there, "all" now, seq_length 256 there, 300 now, max_document 256 there, 200 now): {output}',
    )
    assert run(config(source, output=str(output)), tokenizer, tmp_path) == Prepared(output, first.report, reused=True)
    other = Tokenizer.from_str(tokenizer.to_str())
    other.add_special_tokens(["<more>"])
    ours, theirs = fingerprint(tokenizer), fingerprint(other)
    assert refusal(config(source, output=str(output)), other, tmp_path) == (
        "data.output",
        f"holds data prepared with other settings (tokenizer {ours} there, {theirs} now): {output}",
    )
    assert json.loads((output / "data.json").read_text())["made_from"]["tokenizer"] == asdict(ours)


TEXT = st.text("abc", max_size=3)
FEW = st.lists(st.builds(exchange, TEXT, TEXT, TEXT), min_size=1, max_size=30)
FRACTION = st.floats(0, 1, exclude_max=True)


def keys(rows: list[Conversation]) -> np.ndarray:
    return document_hashes(rows, np.arange(len(rows)))


@given(FEW.filter(lambda rows: len(rows) > 1), FEW, FRACTION)
def test_split_depends_on_the_row_alone(rows: list[Conversation], more: list[Conversation], fraction: float) -> None:
    held_out = hold_out(keys(rows), fraction)
    split_of = dict(zip(rows, held_out.tolist(), strict=True))
    assert [split_of[row] for row in rows] == held_out.tolist()  # equal rows are in the same split
    assert 0 < held_out.sum() < len(rows) or fraction == 0 or len(set(rows)) == 1
    together = dict(zip(rows + more, hold_out(keys(rows + more), fraction).tolist(), strict=True))
    moved = [row for row in split_of if split_of[row] != together[row]]
    assert len(moved) <= 2  # only rows that were moved so that neither split is empty
    assert (hold_out(keys(rows[::-1]), fraction) == held_out[::-1]).all()


def test_split_takes_the_fraction() -> None:
    held_out = hold_out(keys([exchange(f"row {number}", "", "") for number in range(5000)]), 0.1)
    assert 400 < held_out.sum() < 600
    assert held_out.dtype == np.bool_


def test_import_is_light() -> None:
    code = "import sys, dscoder_exp.data.loader; print({'mindspore', 'tokenizers'} & {*sys.modules})"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed == "set()\n"
