"""task=prepare by the contract's command, and training on what it wrote."""

import json
from pathlib import Path

from tasks_support import RECIPE, Room, done

KEYS = {
    *{"rows", "kept", "dropped", "truncated", "duplicates", "sequences", "tokens"},
    *{"useful_fraction", "loss_fraction", "fingerprint"},
}
TOKENIZER = Path(__file__).parents[2] / "examples" / "tiny_tokenizer.json"


def test_prepared_once_and_found_after_that(room: Room) -> None:
    """The contract's command has no model: the tokenizer's end token has to be named, its files don't do it."""
    asked = ["data=code_alpaca", "data.source=rows.json", "seq_length=256", "data.packing=true"]
    text = [f"tokenizer.path={TOKENIZER}", "model.bos_token_id=0", "model.eos_token_id=1", "model.pad_token_id=2"]
    context = "model.max_position_embeddings=2048"
    target = room.directory / "prepared-cache"
    made = done(room("task=prepare", *asked, *text, context, f"data.output={target}"))
    assert "40 rows, 40 kept" in made.out
    assert f"written in {target}\n" in made.out
    assert {path.suffix for path in target.iterdir()} == {".mindrecord", ".db", ".json"}
    assert {path.name for path in target.glob("*.mindrecord")} == {"train.mindrecord", "eval.mindrecord"}
    written = (target / "data.json").read_text()
    report = json.loads(written)
    assert report.keys() >= KEYS
    assert (report["rows"], report["kept"], report["dropped"]) == (40, 40, 0)
    assert 0 < report["loss_fraction"] < report["useful_fraction"] <= 1
    assert report["useful_fraction"] == report["tokens"] / (report["sequences"] * 256)

    times = {path: path.stat().st_mtime_ns for path in target.iterdir()}
    again = done(room("task=prepare", *asked, *text, context, f"data.output={target}"))
    assert f"found in {target}\n" in again.out
    assert {path: path.stat().st_mtime_ns for path in target.iterdir()} == times

    refused = room("task=prepare", *asked, *text, context, f"data.output={target}", "seq_length=128")
    assert refused.code == 2
    assert "data.output: holds data prepared otherwise (seq_length 256 there, 128 now" in refused.err
    assert {path: path.stat().st_mtime_ns for path in target.iterdir()} == times

    trained = done(room(*RECIPE, "parallel=single", f"data.output={target}", "train.max_steps=1", "tracking=off"))
    assert f"found in {target}\n" in trained.out
    assert f"{report['sequences']} training sequences" in trained.out
    assert {path: path.stat().st_mtime_ns for path in target.iterdir()} == times
