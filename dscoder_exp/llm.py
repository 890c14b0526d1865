"""The Python API: load a model with its tokenizer, for notebooks and tests."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import fields
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dscoder_exp.data.prompt_format import PromptFormat, choose_format
from dscoder_exp.data.requests import EMPTY, messages_of, too_long
from dscoder_exp.device.start import start_device
from dscoder_exp.generation.answers import Answer, Answering, Ending
from dscoder_exp.generation.batching import Batch, Row
from dscoder_exp.generation.engine import Engine
from dscoder_exp.generation.sampling import Sampling
from dscoder_exp.hub.address import SCHEME
from dscoder_exp.model.build import build
from dscoder_exp.model.compiled import Announce
from dscoder_exp.model.llama import Llama, ModelInputs
from dscoder_exp.schema.bounds import check_arguments
from dscoder_exp.schema.config import Config, ModelConfig, PredictConfig, TokenizerConfig
from dscoder_exp.schema.cross import NO_FP32
from dscoder_exp.schema.errors import Refused
from dscoder_exp.schema.llama import IGNORE_INDEX
from dscoder_exp.weights.check import check
from dscoder_exp.weights.lora.setup import open_adapter
from dscoder_exp.weights.resolve import OpenedModel, TextSetup, fetch, open_text_setup
from dscoder_exp.weights.source import open_weights

if TYPE_CHECKING:
    from tokenizers import Tokenizer

log = logging.getLogger(__name__)


class LLM:
    """A loaded model. Threads may share it: what they ask for is generated one after another.

    Attributes:
        model: the network with its weights.
        config: the model's shape.
        tokenizer: the one stored beside the weights; None: there is none.
        stop_token_ids: the tokens that end an answer, by the model's files.
    """

    def __init__(self, model: Llama, opened: OpenedModel) -> None:
        """
        Args:
            opened: what `model` was built of.
        """
        self.model = model
        self.config = model.config
        self.tokenizer: Tokenizer | None = None if opened.source is None else opened.source.tokenizer()
        self.stop_token_ids = opened.generation.stop_token_ids
        self._opened = opened
        self._engine = Engine(model)
        self._latest: object = None  # what was generated last
        self._lock = Lock()  # the engine's slots are filled by one call at a time

    def logits(self, ids: ArrayLike, attention_mask: ArrayLike | None = None) -> NDArray[np.float32]:
        """Next-token logits, float32 [B, T, vocab_size].

        Args:
            ids: int [B, T].
            attention_mask: [B, T], 0 for padding, left or right, else 1; positions count from the first 1.

        Raises:
            ValueError: `ids` is not two-dimensional, or holds an id that isn't in the vocabulary.
        """
        inputs, shape = self._inputs(ids, attention_mask)
        return self.model.logits(inputs).reshape(*shape, -1)

    def loss(self, ids: ArrayLike, labels: ArrayLike) -> float:
        """Mean negative log-likelihood (nats) of the labels other than -100.

        Args:
            ids: int [B, T].
            labels: int [B, T], aligned with `ids` as in transformers: labels[t] is predicted from the ids before t.

        Raises:
            ValueError: all labels are -100, `ids` is not two-dimensional, or an id isn't in the vocabulary.
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
        batch_size: int = 8,
        ignore_eos: bool = False,
        seed: int = 0,
        stop_token_ids: Sequence[int] = (),
        **sampling: Any,
    ) -> list[list[int]]:
        """New token ids of each prompt, including the stop token that ended it; greedy while `temperature` is 0.

        Args:
            ids: prompts, int [B, T] or lists of different lengths.
            batch_size: prompts generated at a time; no prompt's ids depend on it.
            ignore_eos: generate `max_new_tokens` tokens even after a stop token of the model's.
            seed: of the random numbers of each prompt, which depend on its ids, too.
            stop_token_ids: tokens that end an answer, besides the model's.
            sampling: temperature, top_k, top_p, min_p, repetition_penalty: the attributes of `Sampling`.

        Raises:
            ValueError: a prompt is empty or fills the context, an id isn't in the vocabulary, or an argument is out of
                its range.
        """
        stops = {*stop_token_ids, *(() if ignore_eos else self.stop_token_ids)}
        prompts = [self._token_ids(prompt) for prompt in ids]  # type: ignore[union-attr]
        check_arguments(Config, seed=seed)
        check_arguments(PredictConfig, max_new_tokens=max_new_tokens, batch_size=batch_size)
        context = self.config.max_position_embeddings
        for prompt in prompts:
            if (problem := EMPTY if not len(prompt) else too_long(len(prompt), context)) is not None:
                raise ValueError(f"ids: {problem}")
        rows = [Row(prompt, min(max_new_tokens, context - len(prompt)), stops, seed) for prompt in prompts]
        parameters = Sampling(**sampling)
        with self._lock:
            self._latest = rows
            for _ in Batch(self._engine_of(min(batch_size, len(rows))), parameters).run(rows):
                pass
        return [row.tokens for row in rows]

    def chat(self, messages: str | Sequence[dict[str, Any]], max_new_tokens: int = 256, **options: Any) -> str:
        """The answer to a conversation, by the model's own prompt format; arguments are as in `stream`."""
        return "".join(self.stream(messages, max_new_tokens, **options))

    def stream(
        self,
        messages: str | Sequence[dict[str, Any]],
        max_new_tokens: int = 256,
        *,
        seed: int = 0,
        stop: str | Sequence[str] = (),
        stop_token_ids: Sequence[int] = (),
        **sampling: Any,
    ) -> Iterator[str]:
        """Yield the text of the answer to a conversation while it is generated, in whole characters.

        Args:
            messages: [{"role": "user", "content": ...}, ...], or one text, which is the user's.
            stop: texts, or one, that end the answer, and are no part of it.
            stop_token_ids: tokens that end the answer, besides those of the model and its prompt format.
            sampling: as in `generate`.

        Raises:
            ValueError: `messages` aren't messages, the prompt format doesn't take them, they fill the context, or an
                argument is out of its range.
            Refused: the model has no tokenizer.
            RuntimeError: something else was generated before the stream's end.
        """
        ids = self._format.prompt(messages_of(messages))
        context = self.config.max_position_embeddings
        if (problem := too_long(len(ids), context)) is not None:
            raise ValueError(problem)
        check_arguments(Config, seed=seed)
        check_arguments(PredictConfig, max_new_tokens=max_new_tokens)
        stops = {*self._format.stop_token_ids, *stop_token_ids}
        stop = (stop,) if isinstance(stop, str) else tuple(stop)
        if "" in stop:
            raise ValueError("stop: an empty text would end every answer at once")
        ending = Ending(stops, stop, self._format.control_ids)
        texts: list[str] = []
        answer = Answering(self._text.tokenizer, ending, context, max_new_tokens, seed).answer(ids, 0, texts.append)
        return self._streamed(answer, texts, Sampling(**sampling))

    def _streamed(self, answer: Answer, texts: list[str], sampling: Sampling) -> Iterator[str]:
        with self._lock:
            self._latest = answer
            steps = Batch(self._engine, sampling).run([answer])
        while self._advance(answer, steps):
            yield from texts
            texts.clear()

    def _advance(self, answer: Answer, steps: Iterator[Any]) -> bool:
        """One step more of the latest answer; returns whether there was one."""
        with self._lock:
            if self._latest is not answer:
                raise RuntimeError("another answer was begun, so this stream can't go on: it had the same cache")
            return next(steps, None) is not None

    def _token_ids(self, ids: ArrayLike) -> NDArray[np.int32]:
        """Raises ValueError unless `ids` are whole numbers within the vocabulary."""
        found = np.asarray(ids)
        if found.size and found.dtype.kind not in "iu":
            raise ValueError(f"ids: whole numbers are asked for, not {found.dtype}")
        outside = found[(found < 0) | (found >= self.config.vocab_size)]
        if outside.size:
            raise ValueError(f"ids: {outside[0]} is not in the vocabulary of {self.config.vocab_size} tokens")
        return found.astype(np.int32)

    def _engine_of(self, slots: int) -> Engine:
        """The engine, a new one if it has fewer slots."""
        if self._engine.slots < slots:
            self._engine = Engine(self.model, slots)
        return self._engine

    @cached_property
    def _text(self) -> TextSetup:
        empty: dict[str, Any] = {item.name: None for item in fields(ModelConfig)}
        return open_text_setup(ModelConfig(**empty), TokenizerConfig(None), self._opened)

    @cached_property
    def _format(self) -> PromptFormat:
        return choose_format(self._text, None, "model.template")

    def _inputs(
        self, ids: ArrayLike, attention_mask: ArrayLike | None, targets: NDArray[np.int32] | None = None
    ) -> tuple[ModelInputs, tuple[int, ...]]:
        tokens = self._token_ids(ids)
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
        precision: "fp32" (CPU only), "fp16" or "bf16".
        device: "cpu" or "ascend".
        adapter: directory of a LoRA adapter in PEFT's format, which is merged into the weights.
        allow: patterns of tensor names that may be missing (initialized from seed 0) or unexpected.
        announce: called with the name of each function of the model before it is compiled.

    Raises:
        Refused: `path` holds no model or can't be downloaded, the adapter belongs to another model, or the device lacks
            the precision (bf16 on a CPU: there is no C++ compiler).
    """
    if device == "ascend" and precision == "fp32":
        raise Refused([NO_FP32])
    source = open_weights(fetch(path, "model.path") if path.startswith(SCHEME) else path)
    log.info("%s: %s", source.path, check(source, allow=allow))
    opened = OpenedModel(source.config, source, source.template)
    if adapter is not None:
        opened = opened.with_adapter(open_adapter(adapter, "adapter.path", opened))
    start_device(device)
    model = build(
        source.config,
        source,
        seed=0,
        device=device,
        precision=precision,
        adapter=opened.adapter,
        frozen=True,
        announce=announce,
    )
    return LLM(model, opened)
