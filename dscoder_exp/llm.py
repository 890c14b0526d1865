"""The Python API: load a model with its tokenizer, for notebooks and tests."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dscoder_exp.device.start import start_device
from dscoder_exp.generation.engine import Engine
from dscoder_exp.generation.sampling import Sampling
from dscoder_exp.hub.address import SCHEME
from dscoder_exp.model.build import build
from dscoder_exp.model.compiled import Announce
from dscoder_exp.model.llama import Llama, ModelInputs
from dscoder_exp.schema.cross import NO_FP32
from dscoder_exp.schema.errors import Refused, refuse
from dscoder_exp.schema.llama import IGNORE_INDEX
from dscoder_exp.weights.check import check
from dscoder_exp.weights.lora.setup import open_adapter
from dscoder_exp.weights.resolve import OpenedModel, fetch
from dscoder_exp.weights.source import open_weights

if TYPE_CHECKING:
    from tokenizers import Tokenizer

log = logging.getLogger(__name__)


class LLM:
    """A loaded model.

    Attributes:
        model: the network with its weights.
        config: the model's shape.
        tokenizer: the one stored beside the weights; None: there is none.
        stop_token_ids: the tokens that end an answer, by the model's files.
    """

    def __init__(self, model: Llama, tokenizer: Tokenizer | None, stop_token_ids: Sequence[int]) -> None:
        self.model = model
        self.config = model.config
        self.tokenizer = tokenizer
        self.stop_token_ids = tuple(stop_token_ids)
        self._engine = Engine(model)

    def logits(self, ids: ArrayLike, attention_mask: ArrayLike | None = None) -> NDArray[np.float32]:
        """Next-token logits, float32 [B, T, vocab_size].

        Args:
            ids: int [B, T].
            attention_mask: [B, T], 0 for padding, left or right, else 1; positions count from the first 1.

        Raises:
            ValueError: `ids` is not two-dimensional.
        """
        inputs, shape = self._inputs(ids, attention_mask)
        return self.model.logits(inputs).reshape(*shape, -1)

    def loss(self, ids: ArrayLike, labels: ArrayLike) -> float:
        """Mean negative log-likelihood (nats) of the labels other than -100.

        Args:
            ids: int [B, T].
            labels: int [B, T], aligned with `ids` as in transformers: labels[t] is predicted from the ids before t.

        Raises:
            ValueError: all labels are -100, or `ids` is not two-dimensional.
        """
        aligned = np.asarray(labels, np.int32)
        targets = np.full_like(aligned, IGNORE_INDEX)
        targets[:, :-1] = aligned[:, 1:]
        counted = int((targets != IGNORE_INDEX).sum())
        if not counted:
            raise ValueError("labels: all are -100, so there is no loss")
        inputs, _ = self._inputs(ids, None, targets)
        return self.model.loss_sum(inputs) / counted

    def generate(
        self,
        ids: ArrayLike | Sequence[Sequence[int]],
        max_new_tokens: int = 64,
        *,
        ignore_eos: bool = False,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        stop_token_ids: Sequence[int] = (),
    ) -> list[list[int]]:
        """New token ids of each prompt, including the stop token that ended it; greedy while `temperature` is 0.

        Args:
            ids: prompts, int [B, T] or lists of different lengths.
            ignore_eos: generate `max_new_tokens` tokens even after a stop token of the model's.
            stop_token_ids: tokens that end an answer, besides the model's.
        """
        sampling = Sampling(temperature, top_k, top_p, seed)
        prompts = [np.asarray(prompt, np.int32).tolist() for prompt in ids]  # type: ignore[union-attr]
        ending: dict[str, Any] = {"ignore_eos": ignore_eos, "stop_token_ids": stop_token_ids}
        return [list(self.stream(prompt, max_new_tokens, sampling, **ending)) for prompt in prompts]

    def stream(
        self,
        prompt: Sequence[int],
        max_new_tokens: int,
        sampling: Sampling,
        *,
        ignore_eos: bool = False,
        stop_token_ids: Sequence[int] = (),
    ) -> Iterator[int]:
        """Yield the new token ids of one prompt as they are generated; arguments are as in `generate`."""
        stops = {*stop_token_ids, *(() if ignore_eos else self.stop_token_ids)}
        return self._engine.stream(prompt, max_new_tokens=max_new_tokens, sampling=sampling, stop_token_ids=stops)

    def _inputs(
        self, ids: ArrayLike, attention_mask: ArrayLike | None, targets: NDArray[np.int32] | None = None
    ) -> tuple[ModelInputs, tuple[int, ...]]:
        tokens = np.asarray(ids, np.int32)
        if tokens.ndim != 2:
            raise ValueError(f"ids must be [B, T], got {list(tokens.shape)}")
        real = np.ones_like(tokens) if attention_mask is None else np.asarray(attention_mask, np.int32)
        positions = np.maximum(np.cumsum(real, 1) - 1, 0).astype(np.int32)
        documents = np.where(real > 0, 0, -1).astype(np.int32)
        return self.model.inputs(tokens, positions, documents, targets), tokens.shape


def load(
    path: str,
    precision: str = "fp32",
    device: str = "cpu",
    *,
    adapter: str | None = None,
    allow: Sequence[str] = (),
    announce: Announce = lambda name: None,
) -> LLM:
    """Load a model from a Hugging Face or native directory, or a .gguf file; logs which tensors were found (INFO).

    Args:
        path: a local path, or hf://OWNER/NAME[@REVISION] of a Hugging Face repository, downloaded unless it is cached.
        precision: "fp32" (CPU only), "fp16", or "bf16" (NPU only); the other device lacks kernels for it.
        device: "cpu" or "ascend".
        adapter: directory of a LoRA adapter in PEFT's format, which is merged into the weights.
        allow: patterns of tensor names that may be missing (initialized from seed 0) or unexpected.
        announce: called with the name of each function of the model before it is compiled.

    Raises:
        Refused: `path` holds no model or can't be downloaded, the adapter belongs to another model, or the device lacks
            the precision.
    """
    if device == "cpu" and precision == "bf16":
        raise refuse("runtime.precision", f"{precision} has no matrix product on the CPU", "runtime.precision=fp32")
    if device == "ascend" and precision == "fp32":
        raise Refused([NO_FP32])
    source = open_weights(fetch(path, "model.path") if path.startswith(SCHEME) else path)
    log.info("%s: %s", source.path, check(source, allow=allow))
    opened = OpenedModel(source.config, source, None)
    merged = None if adapter is None else open_adapter(adapter, "adapter.path", opened)
    stops = replace(opened, adapter=merged).generation.stop_token_ids
    start_device(device)
    model = build(
        source.config,
        source,
        seed=0,
        device=device,
        precision=precision,
        adapter=merged,
        frozen=True,
        announce=announce,
    )
    return LLM(model, source.tokenizer(), stops)
