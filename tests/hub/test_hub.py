"""hf:// addresses: downloads and refusals, with a local test hub."""

import shutil
import socket
from pathlib import Path
from urllib.parse import unquote

import pytest
from hub_client import MODEL_FILES, OTHER_FILES, TINY, TOKENIZER_FILES, Client, tiny
from hub_server import Hub, files_of
from hypothesis import given
from hypothesis import strategies as st
from weights_support import REFERENCE, equal, refusal

from dscoder_exp.hub.address import parse, snapshot
from dscoder_exp.hub.locate import locate
from dscoder_exp.schema.errors import Refused
from dscoder_exp.weights.source import open_weights

pytestmark = pytest.mark.slow  # a process for each download

SHARDED = REFERENCE / "tiny_gqa_sharded"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def tensors(path: Path) -> dict:
    source = open_weights(str(path))
    return {name: source.tensor(name) for name in source.shapes()}


def test_a_model_is_downloaded_once_and_is_the_same(hub: Hub, client: Client) -> None:
    repository = hub.add("acme/tiny", tiny())
    got = client("hf://acme/tiny")
    assert got.address == f"hf://acme/tiny@{repository.names['main']}"
    assert equal(tensors(Path(got.place)), tensors(TINY))
    assert client.cache in Path(got.place).parents
    assert hub.downloaded() == MODEL_FILES | set(TOKENIZER_FILES)
    assert got.err == ""  # no progress bars without a terminal
    again = client("hf://acme/tiny")
    assert again.address == got.address
    assert hub.downloaded() == set()
    assert client(got.address).place == got.place
    assert hub.asked() == []  # a commit never changes


def test_only_the_shards_in_the_index_are_downloaded(hub: Hub, client: Client) -> None:
    """The repository also holds the same model in other shards."""
    extra = {"model-00001-of-00002.safetensors": b"0" * 99, "consolidated-00001-of-00005.safetensors": b"0" * 99}
    hub.add("acme/sharded", files_of(SHARDED) | extra)
    got = client("hf://acme/sharded")
    assert equal(tensors(Path(got.place)), tensors(SHARDED))
    assert hub.downloaded() == {path.name for path in SHARDED.iterdir()}


def test_a_native_checkpoint_is_downloaded_with_all_ranks(hub: Hub, client: Client) -> None:
    native = ["task=convert", f"weights.source={TINY}", "weights.format=native", "weights.tensor=2"]
    made = client.run("-m", "dscoder_exp", *native, f"weights.target={client.directory / 'native'}")
    assert made.returncode == 0, made.stderr
    hub.add("acme/native", files_of(client.directory / "native") | OTHER_FILES)
    got = client("hf://acme/native", "weights.source")
    assert equal(tensors(Path(got.place)), tensors(TINY))
    assert hub.downloaded() == {path.name for path in (client.directory / "native").iterdir()}


def test_one_of_several_gguf_files_is_downloaded(hub: Hub, client: Client) -> None:
    hub.add("acme/gguf", {"small.gguf": b"GGUF1", "q/large.gguf": b"GGUF2", "config.json": b"{}"})
    got = client("hf://acme/gguf@main/q/large.gguf")
    assert got.address.endswith(f"{hub.repositories['acme/gguf'].names['main']}/q/large.gguf")
    assert Path(got.place).read_bytes() == b"GGUF2"
    assert hub.downloaded() == {"q/large.gguf"}
    assert client(got.address, HF_HUB_OFFLINE="1").place == got.place
    refused = client("hf://acme/gguf/none.gguf").refused
    assert "hf://acme/gguf holds no none.gguf\n      -> model.path=hf://acme/gguf/small.gguf" in refused
    refused = client("hf://acme/gguf").refused
    assert (
        "hf://acme/gguf holds neither safetensors nor pytorch_model.bin\n      -> model.path=hf://acme/gguf/small.gguf"
        in refused
    )


def test_only_tokenizer_files_are_downloaded_for_a_tokenizer(hub: Hub, client: Client) -> None:
    hub.add("acme/tiny", tiny())
    got = client("hf://acme/tiny", "tokenizer.path")
    assert hub.downloaded() == set(TOKENIZER_FILES)
    assert {path.name for path in Path(got.place).iterdir()} == set(TOKENIZER_FILES)
    # The model's files are missing, although the commit's directory exists.
    assert "missing or incomplete in" in client("hf://acme/tiny", HF_HUB_OFFLINE="1").refused
    client("hf://acme/tiny")
    assert hub.downloaded() == MODEL_FILES
    hub.add("acme/without", files_of(SHARDED))
    assert "hf://acme/without holds no tokenizer.json" in client("hf://acme/without", "tokenizer.path").refused
    assert hub.downloaded() == set()


def test_a_commit_is_fixed_and_a_branch_moves(hub: Hub, client: Client) -> None:
    repository = hub.add("acme/tiny", tiny())
    first = repository.names["main"]
    repository.names["v1/rc"] = first
    second = repository.commit(tiny(**files_of(REFERENCE / "tiny_gqa_tied", without=r".*\.npz")), "main", "v2")
    assert client("hf://acme/tiny@v1%2Frc").commit == first
    assert client("hf://acme/tiny@v2").commit == second
    assert client("hf://acme/tiny").commit == second
    hub.asked()
    third = repository.commit(tiny(**{"generation_config.json": b'{"max_length": 3}'}), "main")
    moved = client("hf://acme/tiny")
    assert moved.commit == third
    assert (Path(moved.place) / "generation_config.json").read_bytes() == b'{"max_length": 3}'
    assert "model.safetensors" not in hub.downloaded()  # unchanged since the first commit
    old, new = (client(f"hf://acme/tiny@{commit}").place for commit in (first, second))
    assert equal(tensors(Path(old)), tensors(TINY))
    assert equal(tensors(Path(new)), tensors(REFERENCE / "tiny_gqa_tied"))


def test_offline_only_the_cache_is_used(hub: Hub, client: Client) -> None:
    hub.add("acme/tiny", tiny())
    refused = client("hf://acme/tiny@main", HF_HUB_OFFLINE="1").refused
    assert f"HF_HUB_OFFLINE is set, and acme/tiny@main is missing or incomplete in {client.cache}/hub" in refused
    got = client("hf://acme/tiny")
    hub.asked()
    for address in ("hf://acme/tiny", "hf://acme/tiny@main", got.address):
        assert client(address, HF_HUB_OFFLINE="1").place == got.place
    (Path(got.place) / "model.safetensors").unlink()
    assert "missing or incomplete" in client("hf://acme/tiny", HF_HUB_OFFLINE="1").refused
    assert "missing or incomplete" in client(got.address, HF_HUB_OFFLINE="1").refused
    assert hub.asked() == []


def test_offline_with_a_cache_filled_by_another_version(hub: Hub, client: Client) -> None:
    """Older versions of huggingface_hub don't cache the list of a commit's files."""
    hub.add("acme/tiny", tiny())
    got = client("hf://acme/tiny")
    shutil.rmtree(Path(got.place).parents[1] / "trees")
    assert client("hf://acme/tiny", HF_HUB_OFFLINE="1").place == got.place
    (Path(got.place) / "model.safetensors").unlink()
    assert "missing or incomplete" in client("hf://acme/tiny", HF_HUB_OFFLINE="1").refused
    assert client(got.address).place == got.place
    hub.add("acme/sharded", files_of(SHARDED))
    place = Path(client("hf://acme/sharded").place)
    shutil.rmtree(place.parents[1] / "trees")
    (place / "model-00003-of-00005.safetensors").unlink()
    assert "missing or incomplete" in client("hf://acme/sharded", HF_HUB_OFFLINE="1").refused


def closed_port() -> str:
    """The address of a hub that doesn't run."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_an_unreachable_hub_is_reported_but_a_cached_commit_needs_no_hub(hub: Hub, client: Client) -> None:
    hub.add("acme/tiny", tiny())
    got = client("hf://acme/tiny")
    nowhere = closed_port()
    refused = client("hf://acme/tiny", HF_ENDPOINT=nowhere).refused
    assert refused.startswith(f"dscoder_exp: refused\n  - model.path: {nowhere} can't be reached: ")
    assert "\n      -> check the network, or HF_ENDPOINT=URL of a mirror, or HF_HUB_OFFLINE=1 with" in refused
    assert client(got.address, HF_ENDPOINT=nowhere).place == got.place
    assert f"{nowhere} can't be reached" in client(f"hf://acme/tiny@{COMMIT}", HF_ENDPOINT=nowhere).refused


def test_a_gated_model(hub: Hub, client: Client) -> None:
    hub.add("acme/tiny", tiny()).gated = True
    refused = client("hf://acme/tiny").refused
    assert "model.path: acme/tiny is gated: only those who accepted its terms may download it" in refused
    assert f"-> accept them at {hub.url}/acme/tiny, then `hf auth login` or HF_TOKEN=…" in refused


def test_a_model_that_is_missing_or_private(hub: Hub, client: Client) -> None:
    refused = client("hf://acme/none").refused
    assert f"model.path: {hub.url} knows no model acme/none, or it is private" in refused
    assert "`hf auth login` or HF_TOKEN=…" in refused


def test_a_revision_that_is_missing(hub: Hub, client: Client) -> None:
    hub.add("acme/tiny", tiny())
    for revision in ("v9", COMMIT):
        assert f"acme/tiny has no revision '{revision}'" in client(f"hf://acme/tiny@{revision}").refused


@pytest.mark.parametrize("status", [500, 503, 404])
def test_http_errors_are_reported(hub: Hub, client: Client, status: int) -> None:
    hub.down = status
    refused = client("hf://acme/tiny").refused
    assert f"model.path: acme/tiny: {hub.url} answers {status} (" in refused


def test_a_server_that_is_not_a_hub(hub: Hub, client: Client) -> None:
    """Such as a login page of a captive portal."""
    hub.down = 200
    refused = client("hf://acme/tiny").refused
    assert f"model.path: acme/tiny: the download from {hub.url} failed: JSONDecodeError" in refused
    assert "check HF_ENDPOINT" in refused


def test_a_connection_that_breaks_off(hub: Hub, client: Client) -> None:
    """It breaks on each of the library's retries; the next run finds no partial file."""
    hub.add("acme/tiny", tiny())
    hub.breaks_off = True
    broken = client("hf://acme/tiny", before="import time; time.sleep = lambda seconds: None")
    assert f"model.path: acme/tiny: the connection to {hub.url} broke: " in broken.refused
    assert broken.refused.endswith("\n      -> try again")
    assert "missing or incomplete" in client("hf://acme/tiny", HF_HUB_OFFLINE="1").refused
    hub.breaks_off = False
    assert equal(tensors(Path(client("hf://acme/tiny").place)), tensors(TINY))


def test_a_small_disk_is_refused_before_the_download(hub: Hub, client: Client) -> None:
    hub.add("acme/tiny", tiny())
    full = "import shutil, collections; shutil.disk_usage = lambda path: collections.namedtuple('U', 'free')(2**24)"
    refused = client("hf://acme/tiny", "weights.source", before=full).refused
    assert "weights.source: acme/tiny: 0.0 GB are to be downloaded, and the disk of" in refused
    assert "model.safetensors" not in hub.downloaded()
    client("hf://acme/tiny")
    assert client("hf://acme/tiny", before=full).place


def test_all_parts_of_a_split_gguf_file_are_downloaded(hub: Hub, client: Client) -> None:
    parts = {f"q/x-0000{number}-of-00003.gguf": b"GGUF%d" % number for number in (1, 2, 3)}
    hub.add("acme/split", {**parts, "q/y.gguf": b"GGUF"})
    got = client("hf://acme/split/q/x-00002-of-00003.gguf")
    assert str(got.place).endswith("q/x-00002-of-00003.gguf")
    assert hub.downloaded() == set(parts)
    hub.add("acme/cut", {name: b"GGUF" for name in list(parts)[:2]})
    assert "holds no q/x-00003-of-00003.gguf" in client("hf://acme/cut/q/x-00001-of-00003.gguf").refused


@pytest.mark.parametrize("sharded", [False, True])
def test_pytorch_files_are_downloaded_where_there_are_no_safetensors(hub: Hub, client: Client, sharded: bool) -> None:
    shards = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]
    names = [*shards, "pytorch_model.bin.index.json"] if sharded else ["pytorch_model.bin"]
    files = {name: (REFERENCE / "torch_files" / name).read_bytes() for name in ["config.json", *names]}
    hub.add("acme/torch", files | {"optimizer.bin": b"0"})
    assert client("hf://acme/torch").place
    assert hub.downloaded() == set(files)
    assert client("hf://acme/torch").place  # from the cache


def test_a_disk_that_fills_up_during_the_download(hub: Hub, client: Client) -> None:
    """Simulated by a limit of 200 kB per file."""
    hub.add("acme/tiny", tiny())
    limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))"
    refused = client("hf://acme/tiny", before=limit).refused
    assert f"model.path: acme/tiny: can't be written to {client.cache}/hub: [Errno 27] File too large" in refused
    assert "HF_HOME=DIR" in refused


@pytest.mark.parametrize(
    ("files", "what"),
    [
        ({"config.json": b"{}", "flax_model.msgpack": b"0"}, "holds neither safetensors nor pytorch_model.bin"),
        ({"model.safetensors": b"0"}, "holds no model: neither config.json nor checkpoint.json"),
        ({"config.json": b'{"model_type": "mamba"}', "model.safetensors": b"0"}, "model_type is 'mamba', not 'llama'"),
    ],
)
def test_weights_of_unsupported_models_are_not_downloaded(
    hub: Hub, client: Client, files: dict[str, bytes], what: str
) -> None:
    hub.add("acme/other", files)
    assert what in client("hf://acme/other").refused
    assert hub.downloaded() <= {"config.json"}


MALFORMED = [
    *["hf://", "hf:///", "hf://acme", "hf://acme/", "hf://acme/tiny@", "hf://@main", "hf://acme@main/tiny"],
    *["hf://datasets/acme/tiny", "hf://spaces/acme/tiny", "hf://buckets/acme/tiny", "hf://model/acme/tiny"],
    *["hf://acme/ti ny", "hf://acme/a--b", "hf://acme/..", "hf://acme/tiny.git", "hf://-acme/tiny", "hf://a//b"],
    *["hf://acme/tiny/model.safetensors", "hf://acme/tiny@feature/x", "hf://acme/tiny/folder"],
]


@pytest.mark.parametrize("key", ["model.path", "tokenizer.path"])
@pytest.mark.parametrize("address", MALFORMED)
def test_malformed_addresses(address: str, key: str) -> None:
    message = refusal(parse, address, key)
    assert message.startswith(f"dscoder_exp: refused\n  - {key}: {address}")
    assert "\n      -> hf://OWNER/NAME or hf://OWNER/NAME@REVISION" in message


def test_tokenizer_path_takes_whole_repositories_only() -> None:
    assert "a / in a revision" not in refusal(parse, "hf://acme/tiny/x.gguf", "tokenizer.path")
    assert "a / in a revision is written %2F" in refusal(parse, "hf://acme/tiny@a/b", "tokenizer.path")


@given(st.text(st.sampled_from("ab/@.-%: \n{é"), max_size=12))
def test_an_address_is_parsed_or_refused(rest: str) -> None:
    """No other exception is raised, and the parsed parts occur in the address."""
    try:
        found = parse(f"hf://{rest}", "tokenizer.path")
    except Refused:
        return
    owner, name = found.id.split("/")
    assert owner
    assert name
    assert rest.strip("/").startswith(found.id)
    assert found.revision is None or found.revision == unquote(rest.strip("/").partition("@")[2])


def test_a_path_that_was_not_downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    address = f"hf://acme/tiny@{COMMIT}"
    message = refusal(locate, address, "model.path")
    assert f"model.path: {address} is missing or incomplete in {tmp_path}" in message
    assert f"-> hf download acme/tiny --revision {COMMIT}" in message
    with pytest.raises(ValueError, match="names no commit"):
        snapshot("hf://acme/tiny@main", "model.path")
    assert "data.source: hf://acme/rows: hf:// is for model.path, tokenizer.path, weights.source" in refusal(
        locate, "hf://acme/rows", "data.source"
    )
