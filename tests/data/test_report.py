"""The report on prepared data: its examples, its figures, its picture, and what MLflow records of it."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from data_support import config, format_named, text_setup, write_rows
from tokenizers import Tokenizer

from dscoder_exp.data.figure import MAX_COLUMNS, MAX_LINES, _layer, write_figure
from dscoder_exp.data.prepare import prepare
from dscoder_exp.data.report import Prepared, dataset_input
from dscoder_exp.data.rows import Conversation


def run(source: Path, tokenizer: Tokenizer, tmp_path: Path, **changes) -> Prepared:
    text = text_setup(tokenizer, context=256)
    return prepare(config(source, **changes), text, seq_length=256, cache_dir=tmp_path / "cache")


@pytest.fixture
def prepared(tmp_path: Path, tokenizer: Tokenizer, rows: list[Conversation]) -> Prepared:
    return run(write_rows(tmp_path / "rows.json", rows), tokenizer, tmp_path)


def test_examples_show_what_counts(prepared: Prepared, tokenizer: Tokenizer, rows: list[Conversation]) -> None:
    prompt_format = format_named("deepseek_coder", tokenizer)
    expected = []
    for number in (0, 14, 29, 44, 59):
        text, ((first, end),), *_ = prompt_format.conversation(rows[number])
        expected.append(f"{text[:first]}⟦{text[first:end]}⟧{text[end:]}")
    assert prepared.report.examples == expected


def test_figures_agree(prepared: Prepared, tmp_path: Path, tokenizer: Tokenizer) -> None:
    report = prepared.report
    assert (report.kind, report.documents, report.split, report.skipped) == ("alpaca", 60, 0, 0)
    assert sum(report.lengths["documents"]) == report.documents
    assert report.lengths["edges"][-1] == report.longest + 1
    assert report.unpacked_useful_fraction < report.useful_fraction
    unpacked = run(tmp_path / "rows.json", tokenizer, tmp_path, packing=False).report
    assert (unpacked.useful_fraction, unpacked.loss_fraction) == (
        report.unpacked_useful_fraction,
        report.unpacked_loss_fraction,
    )
    assert unpacked.useful_fraction == unpacked.unpacked_useful_fraction


def test_documents_of_a_text_are_in_the_same_split(tmp_path: Path, tokenizer: Tokenizer) -> None:
    root = tmp_path / "texts"
    root.mkdir()
    for number in range(20):
        (root / f"{number}.txt").write_text(f"text {number} " * 20 * number)
    report = run(root, tokenizer, tmp_path, loss="all", template=None).report
    assert (report.kind, report.rows, report.blank, report.kept) == ("text", 20, 1, 19)
    assert report.train_rows + report.eval_rows == report.kept
    assert 0 < report.split < report.kept < report.documents
    assert report.longest == 256
    assert report.loss_tokens < report.tokens
    chosen = run(root, tokenizer, tmp_path, loss="response", template="chatml").report
    assert chosen.tokens == report.tokens  # a text has no prompt, whatever the options are
    assert (chosen.loss_tokens, chosen.examples) == (report.loss_tokens, report.examples)


def test_a_single_text_is_in_both_splits(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "book.txt"
    path.write_text("".join(f"line {number}\n" for number in range(2000)))
    report = run(path, tokenizer, tmp_path, eval_fraction=0.2).report
    assert (report.rows, report.train_rows, report.eval_rows, report.split) == (1, 1, 1, 1)
    assert report.sequences > 1 < report.eval_sequences
    assert "".join(report.examples).startswith("l⟦ine")


def test_the_picture(prepared: Prepared, tmp_path: Path) -> None:
    path = tmp_path / "data.png"
    strange = ["⟦$x^2$ 漢字\t\a\n" + "y" * 999 + "⟧", "", "a\n" * 99]
    write_figure(replace(prepared.report, examples=strange), path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob(".*"))


def test_layers_of_an_example_match_line_by_line() -> None:
    example = f"ab\n⟦c\td⟧e\n\n{'f' * (MAX_COLUMNS + 3)}⟦g\n⟧h"
    grey, blue = _layer(example, False), _layer(example, True)
    assert blue[:3] == ["  ", "c   d ", ""]
    assert grey[:3] == ["ab", "     e", ""]
    assert (grey[4], blue[4]) == ("fff ", "   g")
    assert [len(line) for line in grey] == [len(line) for line in blue]
    assert len(_layer("a\n" * 99, True)) == len(_layer("a\n" * 99, False)) == MAX_LINES + 1


@pytest.mark.slow
def test_mlflow_takes_the_data_set(prepared: Prepared, tmp_path: Path) -> None:
    code = """
import json, sys
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag
client = MlflowClient(f"sqlite:///{sys.argv[1]}/mlflow.db")
run = client.create_run(client.create_experiment("x", artifact_location=sys.argv[1]))
dataset = Dataset(**json.load(sys.stdin))
client.log_inputs(run.info.run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
(found,) = client.get_run(run.info.run_id).inputs.dataset_inputs
import mlflow.data
print(json.dumps([found.dataset.name, found.dataset.digest, json.loads(found.dataset.profile)["rows"]]))
"""
    arguments = dataset_input(prepared, "~/rows.json")
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        input=json.dumps(arguments),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    made_from = json.loads((prepared.directory / "data.json").read_text())["made_from"]
    assert json.loads(run.stdout.splitlines()[-1]) == ["rows.json", made_from["source"], 60]
    assert len(arguments["digest"]) <= 36


def test_heavy_imports_are_deferred() -> None:
    code = "import sys, dscoder_exp.tasks.prepare; print({'matplotlib', 'jinja2', 'mindspore'} & {*sys.modules})"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed == "set()\n"
