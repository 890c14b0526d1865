"""task=prepare on the command line, and training on the prepared data."""

import json
from pathlib import Path

import pytest
from command_line import CommandLine
from tasks_support import RECIPE, Workspace, succeeded

KEYS = {
    *{"rows", "kept", "dropped", "truncated", "duplicates", "sequences", "tokens"},
    *{"useful_fraction", "loss_fraction", "fingerprint"},
}
TOKENIZER = Path(__file__).parents[2] / "examples" / "tiny_tokenizer.json"


@pytest.mark.slow
def test_data_are_prepared_once_and_reused(workspace: Workspace, here: CommandLine) -> None:
    """Without a model: its special tokens are given, since a tokenizer.json alone doesn't name them."""
    asked = ["data=code_alpaca", "data.source=rows.json", "seq_length=256", "data.packing=true"]
    text = [f"tokenizer.path={TOKENIZER}", "model.bos_token_id=0", "model.eos_token_id=1", "model.pad_token_id=2"]
    context = "model.max_position_embeddings=2048"
    target = workspace.directory / "prepared-cache"
    made = succeeded(here("task=prepare", *asked, *text, context, f"data.output={target}"))
    assert "40 rows, 40 kept" in made.out
    assert f"written in {target}\n" in made.out
    assert {path.suffix for path in target.iterdir()} == {".mindrecord", ".db", ".json", ".png"}
    assert {path.name for path in target.glob("*.mindrecord")} == {"train.mindrecord", "eval.mindrecord"}
    written = (target / "data.json").read_text()
    report = json.loads(written)
    assert report.keys() >= KEYS
    assert (report["rows"], report["kept"], report["dropped"]) == (40, 40, 0)
    assert 0 < report["loss_fraction"] < report["useful_fraction"] <= 1
    assert report["useful_fraction"] == report["tokens"] / (report["sequences"] * 256)

    times = {path: path.stat().st_mtime_ns for path in target.iterdir()}
    again = succeeded(here("task=prepare", *asked, *text, context, f"data.output={target}"))
    assert f"found in {target}\n" in again.out
    assert {path: path.stat().st_mtime_ns for path in target.iterdir()} == times

    refused = here("task=prepare", *asked, *text, context, f"data.output={target}", "seq_length=128")
    assert refused.code == 2
    assert "data.output: holds data prepared with other settings (seq_length 256 there, 128 now" in refused.err
    assert {path: path.stat().st_mtime_ns for path in target.iterdir()} == times

    trained = succeeded(
        workspace(*RECIPE, "parallel=single", f"data.output={target}", "train.max_steps=1", "tracking=off")
    )
    assert f"found in {target}\n" in trained.out
    assert f"{report['sequences']} training sequences" in trained.out
    assert {path: path.stat().st_mtime_ns for path in target.iterdir()} == times


MESSAGES = [("system", "Be brief."), ("user", "1 + 1?"), ("assistant", "2"), ("user", "2 + 2?"), ("assistant", "4")]
CHAT = {"messages": [{"role": role, "content": content} for role, content in MESSAGES]}
FILE = "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"
FILE += "{% if add_generation_prompt %}assistant: {% endif %}"
SMALL = ["task=prepare", "model=tiny", "seq_length=64", "data.eval_fraction=0", "data.output=prepared"]


def fill(directory: Path) -> None:
    (directory / "chat.jsonl").write_text(json.dumps(CHAT))
    (directory / "pairs.jsonl").write_text(json.dumps({"prompt": "Name a colour.", "response": "red"}))
    (directory / "mine.jinja").write_text(FILE)
    (directory / "code" / "sub").mkdir(parents=True)
    (directory / "code" / "sub" / "long.py").write_text("x = 1\n" * 100)
    (directory / "code" / "short.py").write_text("y = 2\n")
    (directory / "code" / "icon.png").write_bytes(b"\x89PNG\0")


@pytest.mark.parametrize(
    ("overrides", "printed", "example"),
    [
        (["data.source=pairs.jsonl"], "1 rows, 1 kept", "Name a colour.⟦\nred<|end|>⟧"),
        (
            ["data.source=chat.jsonl", "data.template=mine.jinja"],
            "prompt format mine.jinja\n",
            "system: Be brief.<|end|>user: 1 + 1?<|end|>assistant: ⟦2<|end|>⟧user: 2 + 2?<|end|>assistant: ⟦4<|end|>⟧",
        ),
        (
            ["data=text", "data.source=code"],
            "data: 2 texts, 2 kept (0 dropped, 1 split, 0 duplicates, 1 other files skipped)",
            "y⟦ = 2\n<|end|>⟧",
        ),
    ],
    ids=["pairs", "chat", "text"],
)
def test_each_kind_of_source(here_empty: CommandLine, overrides: list[str], printed: str, example: str) -> None:
    fill(here_empty.directory)
    assert printed in succeeded(here_empty(*SMALL, *overrides)).out
    assert example in json.loads((here_empty.directory / "prepared" / "data.json").read_text())["examples"]


def test_the_screen_says_why_rows_are_dropped_and_that_no_answer_ends(here_empty: CommandLine) -> None:
    rows = [{"prompt": "a", "response": said} for said in ("b", "", "c " * 100)]
    (here_empty.directory / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (here_empty.directory / "mine.jinja").write_text(FILE.replace("{{ eos_token }}", " "))
    out = succeeded(here_empty(*SMALL, "data.source=rows.jsonl")).out
    assert "data: 3 rows, 1 kept (2 dropped" in out
    assert "prompt format none: the model brings none (data.template chooses one)\n" in out
    why = "1 without a request or an answer, 1 longer than seq_length or the model's context"
    assert f"      dropped: {why}\n" in out
    assert "learn where to stop" not in out
    other = ["data.source=rows.jsonl", "data.template=mine.jinja", "data.output=other"]
    assert "it writes no special token after an answer" in succeeded(here_empty(*SMALL, *other)).out


def test_bad_files_are_refused(here_empty: CommandLine) -> None:
    fill(here_empty.directory)
    (here_empty.directory / "bad.jinja").write_text("x\n{% for %}")
    (here_empty.directory / "bad.jsonl").write_text('{"prompt": "a", "response": "b"}\n{"text": "c"}\n')
    refused = here_empty(*SMALL, "data.source=bad.jsonl", "data.template=bad.jinja")
    assert (refused.code, refused.out) == (2, "")
    assert "bad.jinja:2: not a Jinja2 template" in refused.err
    assert "bad.jsonl:2: row 2: a row of another kind (text) than the rows before it" in refused.err
    assert not (here_empty.directory / "prepared").exists()
