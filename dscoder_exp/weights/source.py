"""One interface to weights in any supported format."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from dscoder_exp.hub.locate import locate
from dscoder_exp.schema.errors import refuse
from dscoder_exp.schema.llama import LlamaConfig
from dscoder_exp.storage.file_names import ADAPTER_CONFIG_FILE, CHECKPOINT_FILE, CONFIG_FILE
from dscoder_exp.weights.chat_template import ModelTemplate
from dscoder_exp.weights.directory import HuggingFaceDirectory, NativeDirectory
from dscoder_exp.weights.formats.mindformers import MindFormersWeights, holds_mindformers
from dscoder_exp.weights.generation_config import GenerationConfig
from dscoder_exp.weights.tokenizer import Fingerprint

if TYPE_CHECKING:
    from tokenizers import Tokenizer

GIVE_TORCH = "give the directory that holds it as pytorch_model.bin, with config.json"
GIVE_WEIGHTS = "give a directory with config.json and model.safetensors, a native checkpoint, a .gguf or a .ckpt file"


class WeightSource(Protocol):
    """A model on disk: its config is read when it is opened, tensors on request, by Hugging Face's names."""

    @property
    def kind(self) -> str:
        """`hf`, `native`, `mindformers` or `gguf`."""
        ...

    path: Path
    config: LlamaConfig
    template: ModelTemplate | None  # the prompt format that lies with it
    generation: GenerationConfig  # the tokens that end its answers

    @property
    def directory(self) -> Path | None:
        """The directory of the weights, whose tokenizer files belong to them; None: the weights' file holds its own."""
        ...

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of all stored tensors; reads headers only."""
        ...

    def dtype(self, name: str) -> str:
        """Dtype of `row_chunks`, as safetensors spells it: F64, F32, F16, BF16, or one that isn't supported."""
        ...

    def stored_dtype(self, name: str) -> str:
        """Dtype in the file; differs from `dtype` only for GGUF, such as Q4_1, which is dequantised."""
        ...

    def row_chunks(self, name: str) -> Iterator[np.ndarray]:
        """Yield a tensor's rows in order, in chunks [rows, values per row] of `dtype` (BF16 as uint16).

        Raises Refused after the last chunk if the tensor's SHA-256 was recorded and differs.
        """
        ...

    def tensor(self, name: str) -> np.ndarray:
        """A tensor as a new float32 array, of the shape in `shapes`. Raises as `row_chunks` does."""
        ...

    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer stored with the weights, if any. Raises Refused if it can't be read."""
        ...

    def fingerprint(self) -> Fingerprint | None:
        """Fingerprint of the tokenizer that the model was trained with; None: unknown."""
        ...

    def other_tokenizer(self, given: Tokenizer) -> str | None:
        """What shows that `given` isn't the model's own tokenizer, to follow its name; None: nothing does."""
        ...


def open_weights(path: str, key: str = "model.path", shape: LlamaConfig | None = None) -> WeightSource:
    """Open the weights at `path`, whose format is recognised from the files; reads the config, no tensor.

    Args:
        path: a directory or file as `locate` takes it.
        key: the config key that held `path`; error messages name it.
        shape: the model's, for weights without a config (MindSpore Transformers').

    Raises:
        Refused: nothing exists there, it holds no weights, the model isn't a Llama, or has unsupported parts.
    """
    found = locate(path, key)
    if found.is_dir():
        if (found / CHECKPOINT_FILE).is_file():
            return NativeDirectory(found, key)
        if (found / ADAPTER_CONFIG_FILE).is_file():
            remedy = f"{key}=BASE, the model that it was trained on, and adapter.path={path}"
            raise refuse(key, f"{found} holds a LoRA adapter, not a model", remedy)
        if holds_mindformers(found):
            return MindFormersWeights(found, key, shape)
        if (found / CONFIG_FILE).is_file():
            return HuggingFaceDirectory(found, key)
        raise refuse(key, f"{found} holds no model: neither {CONFIG_FILE} nor {CHECKPOINT_FILE}", GIVE_WEIGHTS)
    kind = found.suffix.lower()
    if kind == ".gguf":
        from dscoder_exp.weights.formats.gguf_file import GGUFFile  # gguf's import costs 0.1 s

        return GGUFFile(found, key)
    if kind in (".ckpt", ".safetensors"):
        return MindFormersWeights(found, key, shape)
    if kind in (".bin", ".pt", ".pth"):
        raise refuse(key, f"{found} is a PyTorch file, without the model's shape", GIVE_TORCH)
    raise refuse(key, f"{found} is not a file of weights", GIVE_WEIGHTS)
