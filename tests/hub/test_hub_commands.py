"""hf:// addresses on the command line: preflight downloads, the run records the commit, the workers read the cache."""

import sqlite3

import pytest
from hub_client import MODEL_FILES, TINY, TOKENIZER_FILES, Client, tiny
from hub_server import Hub, files_of
from kernels import share_kernels
from safetensors.numpy import load_file
from weights_support import equal

CONVERT = ["task=convert", "weights.source=hf://acme/tiny", "weights.target=out"]


def test_convert_from_the_hub(hub: Hub, client: Client) -> None:
    commit = hub.add("acme/tiny", tiny()).names["main"]
    ended = client.run("-m", "dscoder_exp", *CONVERT)
    assert ended.returncode == 0, ended.stderr
    assert f"snapshots/{commit} (hf): 21 tensors" in ended.stdout
    assert "HTTP" not in ended.stdout + ended.stderr
    out = client.directory / "out"
    assert equal(load_file(out / "model.safetensors"), load_file(TINY / "model.safetensors"))
    assert (out / "tokenizer.json").is_file()
    assert not (out / "README.md").exists()


def test_convert_with_another_repositorys_tokenizer(hub: Hub, client: Client) -> None:
    hub.add("acme/tiny", files_of(TINY, without=r".*\.npz"))
    hub.add("acme/tokenizer", TOKENIZER_FILES)
    ended = client.run("-m", "dscoder_exp", *CONVERT, "tokenizer.path=hf://acme/tokenizer")
    assert ended.returncode == 0, ended.stderr
    assert (client.directory / "out" / "tokenizer.json").read_bytes() == TOKENIZER_FILES["tokenizer.json"]


def test_a_gated_model_is_refused_before_anything_is_written(hub: Hub, client: Client) -> None:
    hub.add("acme/tiny", tiny()).gated = True
    ended = client.run("-m", "dscoder_exp", *CONVERT)
    assert ended.returncode == 2
    assert "dscoder_exp: refused\n  - weights.source: acme/tiny is gated: " in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "in the cache" not in ended.stderr
    assert not (client.directory / "out").exists()
    assert not (client.directory / "mlflow.db").exists()


@pytest.mark.slow
def test_the_run_records_the_commit_that_a_worker_read(hub: Hub, client: Client) -> None:
    """For two jobs with a branch as revision, each address is resolved once, and no worker makes a request."""
    share_kernels(client.home_cache)
    commit = hub.add("acme/tiny", tiny()).names["main"]
    job = ["task=predict", "model.path=hf://acme/tiny", "tokenizer.path=hf://acme/tiny@main", "predict.prompt=a"]
    ended = client.run("-m", "dscoder_exp", "-m", *job, "predict.max_new_tokens=1,2")
    assert ended.returncode == 0, ended.stderr
    assert "HTTP" not in ended.stdout
    asked = hub.asked()
    assert sum("/api/models" in request and "/tree/" not in request for request in asked) == 4  # two per address
    assert sum(request.startswith("GET") and request.endswith("/model.safetensors") for request in asked) == 1
    with sqlite3.connect(client.directory / "mlflow.db") as store:
        rows = store.execute("SELECT key, value FROM params WHERE key IN ('model.path', 'tokenizer.path')").fetchall()
    assert sorted(rows) == [(key, f"hf://acme/tiny@{commit}") for key in ["model.path"] * 2 + ["tokenizer.path"] * 2]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["seed=x"], ["seed: must be a whole number"]),
        (["weigths.format=hf"], ["weigths.format: unknown key"]),
        (["optim=nonsense"], ["optim=nonsense"]),
        (["seed=0,-1"], ["seed: must be at least 0"]),
        (["weights.format=hf", "weights.tensor=2"], ["weights.tensor: 2, but"]),
        (["weights.source=hf://acme", "weights.tensor=2"], ["weights.source: hf://acme: ", "weights.tensor: 2, but"]),
    ],
)
def test_a_wrong_command_makes_no_request(hub: Hub, client: Client, arguments: list[str], expected: list[str]) -> None:
    hub.add("acme/tiny", tiny())
    ended = client.run("-m", "dscoder_exp", "-m", *CONVERT, *arguments)
    assert ended.returncode == 2
    for text in expected:
        assert text in ended.stderr
    assert hub.requests == []


def test_data_is_checked_before_a_model_is_downloaded(hub: Hub, client: Client) -> None:
    hub.add("acme/tiny", tiny())
    for source in ("none.json", "hf://acme/rows"):
        ended = client.run("-m", "dscoder_exp", "model.path=hf://acme/tiny", f"data.source={source}")
        assert ended.returncode == 2
        assert "data.source: " in ended.stderr
        assert "model.path" not in ended.stderr.replace("hf:// is for model.path", "")
    assert hub.requests == []


@pytest.mark.parametrize("arguments", [["--cfg", "job"], ["--help"]])
def test_showing_the_configuration_downloads_nothing(hub: Hub, client: Client, arguments: list[str]) -> None:
    hub.add("acme/tiny", tiny())
    ended = client.run("-m", "dscoder_exp", *CONVERT, *arguments)
    assert ended.returncode == 0, ended.stderr
    assert hub.requests == []


@pytest.mark.slow
def test_a_notebook_loads_from_the_hub(hub: Hub, client: Client) -> None:
    share_kernels(client.home_cache)
    hub.add("acme/tiny", tiny())
    ended = client.run("-c", "import dscoder_exp.llm as llm; print(llm.load('hf://acme/tiny').config.vocab_size)")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split()[-1] == "128"
    assert hub.downloaded() > MODEL_FILES
