"""Weights of any kind behind one face."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from dscoder_exp.schema.errors import refuse
from dscoder_exp.schema.llama import LlamaConfig
from dscoder_exp.schema.locate import locate
from dscoder_exp.weights.directory import CHECKPOINT_FILE, CONFIG_FILE, HuggingFaceDirectory, NativeDirectory

if TYPE_CHECKING:
    from tokenizers import Tokenizer

KINDS = "give a directory with config.json and model.safetensors, a native checkpoint, or a .gguf file"


class WeightSource(Protocol):
    """A model on disk: its shape at once, its tensors one at a time, by Hugging Face's names."""

    @property
    def kind(self) -> str:
        """`hf`, `native` or `gguf`."""
        ...

    path: Path
    config: LlamaConfig
    template: str | None  # the prompt format it was tuned to: chatml, deepseek_coder, or none that is known

    @property
    def chat_template(self) -> str | None:
        """The Jinja template that lies with it."""
        ...

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of all that is there; reads headers only."""
        ...

    def dtype(self, name: str) -> str:
        """What `rows` gives: F64, F32, F16 or BF16, as safetensors spells them."""
        ...

    def rows(self, name: str, first: int, last: int) -> np.ndarray:
        """Rows of a tensor's first axis, up to `last`, in the stored dtype (BF16 as uint16): [rows, values a row]."""
        ...

    def tensor(self, name: str) -> np.ndarray:
        """One tensor as a float32 array of its own, of the shape that `shapes` gives."""
        ...

    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer that lies with the weights, if any. Raises Refused where it can't be read."""
        ...

    def verify(self) -> None:
        """Reads the files through where hashes were recorded. Raises Refused where one differs."""
        ...


def open_weights(path: str, key: str = "model.path") -> WeightSource:
    """Opens what lies at `path`, recognised by what it holds; reads the config, no tensor.

    Args:
        path: a directory or .gguf file as `locate` takes it.
        key: the config key that held `path`, named in a refusal.

    Raises:
        Refused: nothing there, no weights in it, not a Llama, or a Llama with parts that are not built.
    """
    found = locate(path, key)
    if found.is_dir():
        if (found / CHECKPOINT_FILE).is_file():
            return NativeDirectory(found, key)
        if (found / CONFIG_FILE).is_file():
            return HuggingFaceDirectory(found, key)
        raise refuse(key, f"{found} holds no model: neither {CONFIG_FILE} nor {CHECKPOINT_FILE}", KINDS)
    if found.suffix.lower() == ".gguf":
        from dscoder_exp.weights.gguf_file import GGUFFile  # gguf's import costs 0.1 s

        return GGUFFile(found, key)
    raise refuse(key, f"{found} is a file, but not a .gguf file", KINDS)
