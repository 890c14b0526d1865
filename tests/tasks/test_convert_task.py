"""task=convert by the contract's command: there, back, and what it refuses before it writes."""

from pathlib import Path

from safetensors.numpy import load_file
from tasks_support import REFERENCE, Room, done

SOURCE = REFERENCE / "tiny_gqa"


def test_there_and_back(empty_room: Room) -> None:
    cut = done(
        empty_room(
            *["task=convert", f"weights.source={SOURCE}", "weights.target=cut", "weights.format=native"],
            "weights.tensor=4",
        )
    )
    target = empty_room.directory / "cut"
    assert f"source   {SOURCE} (hf): 21 tensors, 108,864 parameters, all found" in cut.out
    assert f"target   {target} (native, cut over 4 ranks)" in cut.out
    assert len(list(target.glob("model-rank-*-of-04.safetensors"))) == 4
    done(empty_room("task=convert", "weights.source=cut", "weights.target=back", "weights.format=hf"))
    back, original = (load_file(path / "model.safetensors") for path in (empty_room.directory / "back", SOURCE))
    assert back.keys() == original.keys()
    assert all(back[name].tobytes() == original[name].tobytes() for name in original)
    assert not (empty_room.directory / "mlflow.db").exists()

    again = empty_room("task=convert", "weights.source=cut", "weights.target=back")
    assert again.code == 2
    assert f"weights.target: {empty_room.directory / 'back'} exists already" in again.err


def test_everything_that_is_wrong_is_told_and_nothing_written(empty_room: Room) -> None:
    before = set(empty_room.directory.iterdir())
    refused = empty_room("task=convert", "weights.target=x", "weights.tensor=2", "weights.max_shard_size=big")
    assert refused.code == 2
    for words in (
        "weights.source: task=convert has no weights to read",
        "weights.tensor: 2, but Hugging Face's format isn't cut over ranks",
        "weights.max_shard_size: 'big' is no size",
    ):
        assert words in refused.err
    assert set(empty_room.directory.iterdir()) == before
    broken = empty_room.directory / "broken"
    broken.mkdir()
    (broken / "config.json").write_bytes((SOURCE / "config.json").read_bytes())
    whole = (SOURCE / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(whole[:-100])
    refused = empty_room("task=convert", f"weights.source={broken}", "weights.target=x")
    assert refused.code == 2
    assert "model.safetensors: not a readable safetensors file" in refused.err
    assert not Path(empty_room.directory / "x").exists()
