"""Weights of any kind behind one face."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from dscoder_exp.hub.locate import locate
from dscoder_exp.schema.errors import refuse
from dscoder_exp.schema.llama import LlamaConfig
from dscoder_exp.storage.file_names import ADAPTER_CONFIG_FILE, CHECKPOINT_FILE, CONFIG_FILE
from dscoder_exp.weights.directory import HuggingFaceDirectory, NativeDirectory
from dscoder_exp.weights.formats.mindformers import MindFormersWeights, holds_mindformers
from dscoder_exp.weights.tokenizer import Fingerprint

if TYPE_CHECKING:
    from tokenizers import Tokenizer

KINDS = "give a directory with config.json and model.safetensors, a native checkpoint, a .gguf or a .ckpt file"


class WeightSource(Protocol):
    """A model on disk: its shape at once, its tensors one at a time, by Hugging Face's names."""

    @property
    def kind(self) -> str:
        """`hf`, `native`, `mindformers` or `gguf`."""
        ...

    path: Path
    config: LlamaConfig
    template: str | None  # the prompt format it was tuned to: chatml, deepseek_coder, or none that is known

    @property
    def beside(self) -> Path | None:
        """The directory whose tokenizer belongs to the weights; None: they carry their own."""
        ...

    @property
    def chat_template(self) -> str | None:
        """The Jinja template that lies with it."""
        ...

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of all that is there; reads headers only."""
        ...

    def dtype(self, name: str) -> str:
        """What `pieces` gives: F64, F32, F16 or BF16 as safetensors spells them, or another that holds no weights."""
        ...

    def stored_as(self, name: str) -> str:
        """The dtype in the file: a GGUF's may be Q4_1, say, and is dequantised."""
        ...

    def pieces(self, name: str) -> Iterator[np.ndarray]:
        """A tensor's rows from the first to the last, some at a time, in `dtype` (BF16 as uint16): [rows, values].

        Raises Refused after the last one where a hash was recorded and they are others.
        """
        ...

    def tensor(self, name: str) -> np.ndarray:
        """One tensor as a float32 array of its own, of the shape that `shapes` gives. Raises as `pieces` does."""
        ...

    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer that lies with the weights, if any. Raises Refused where it can't be read."""
        ...

    def fingerprint(self) -> Fingerprint | None:
        """Of the tokenizer that the weights were made with, where that is known."""
        ...


def open_weights(path: str, key: str = "model.path", shape: LlamaConfig | None = None) -> WeightSource:
    """Opens what lies at `path`, recognised by what it holds; reads the config, no tensor.

    Args:
        path: a directory or file as `locate` takes it.
        key: the config key that held `path`, named in a refusal.
        shape: the model's, for weights that don't say it themselves (MindSpore Transformers').

    Raises:
        Refused: nothing there, no weights in it, not a Llama, or a Llama with parts that are not built.
    """
    found = locate(path, key)
    if found.is_dir():
        if (found / CHECKPOINT_FILE).is_file():
            return NativeDirectory(found, key)
        if (found / ADAPTER_CONFIG_FILE).is_file():
            remedy = f"{key}=BASE with the model that it was trained beside, and adapter.path={path}"
            raise refuse(key, f"{found} holds a LoRA adapter, no model of its own", remedy)
        if holds_mindformers(found):
            return MindFormersWeights(found, key, shape)
        if (found / CONFIG_FILE).is_file():
            return HuggingFaceDirectory(found, key)
        raise refuse(key, f"{found} holds no model: neither {CONFIG_FILE} nor {CHECKPOINT_FILE}", KINDS)
    kind = found.suffix.lower()
    if kind == ".gguf":
        from dscoder_exp.weights.formats.gguf_file import GGUFFile  # gguf's import costs 0.1 s

        return GGUFFile(found, key)
    if kind in (".ckpt", ".safetensors"):
        return MindFormersWeights(found, key, shape)
    if kind in (".bin", ".pt", ".pth"):
        raise refuse(key, f"{found} is a PyTorch file, a pickle, which would run code when it is read", KINDS)
    raise refuse(key, f"{found} is a file, but none that holds weights", KINDS)
