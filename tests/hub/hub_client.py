"""A client of the local test hub. huggingface_hub reads its settings at import, so each download is a new process."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from hub_server import files_of
from tokenizers import Tokenizer, models
from weights_support import REFERENCE

TINY = REFERENCE / "tiny_gqa"
MODEL_FILES = {"config.json", "generation_config.json", "model.safetensors"}
TOKENIZER = Tokenizer(models.WordLevel({chr(number): number for number in range(128)}, unk_token="?"))  # fits TINY
TOKENIZER_FILES = {
    "tokenizer.json": TOKENIZER.to_str().encode(),
    "tokenizer_config.json": b"{}",
    "chat_template.jinja": b"{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}",
}
OTHER_FILES = {"README.md": b"# tiny", "consolidated.safetensors": b"0" * 999, "original/model.safetensors": b"0" * 999}
TIMEOUT = 120  # seconds per process

FETCH = """
import json, sys
from dscoder_exp.schema.errors import Refused
from dscoder_exp.hub.address import snapshot
from dscoder_exp.weights.resolve import fetch
try:
    address = fetch(*sys.argv[1:])
    print(json.dumps({"address": address, "place": str(snapshot(address, sys.argv[2]))}))
except Refused as refused:
    print(json.dumps({"refused": str(refused)}))
"""


@dataclass
class Downloaded:
    """Result of a download: the pinned address and its local path, or the text of the refusal."""

    err: str
    address: str = ""
    place: str = ""
    refused: str = ""

    @property
    def commit(self) -> str:
        return self.address.partition("@")[2]


@dataclass
class Client:
    """Runs processes with their own working directory and cache; HF_ENDPOINT is the test hub."""

    directory: Path
    endpoint: str

    def run(self, *command: str, **settings: str) -> subprocess.CompletedProcess[str]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "MLFLOW_", "HYDRA_"))}
        own = {
            "HOME": str(self.directory),
            "HF_HOME": str(self.cache),
            "XDG_CACHE_HOME": str(self.home_cache),
            "NO_PROXY": "127.0.0.1,localhost",
        }
        return subprocess.run(
            [sys.executable, *command],
            cwd=self.directory,
            env=inherited | own | {"HF_ENDPOINT": self.endpoint} | settings,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )

    def __call__(self, address: str, key: str = "model.path", *, before: str = "", **settings: str) -> Downloaded:
        """Download in a new process, which first runs the statements in `before`."""
        ended = self.run("-c", before + FETCH, address, key, **settings)
        assert ended.returncode == 0, ended.stderr
        return Downloaded(ended.stderr, **json.loads(ended.stdout))

    @property
    def cache(self) -> Path:
        return self.directory / "hf-cache"

    @property
    def home_cache(self) -> Path:
        return self.directory / ".cache"


def tiny(**more: bytes) -> dict[str, bytes]:
    """The repository of a small model, with additional files that must not be downloaded."""
    return files_of(TINY, without=r".*\.npz|grad_norms.json") | TOKENIZER_FILES | OTHER_FILES | more
