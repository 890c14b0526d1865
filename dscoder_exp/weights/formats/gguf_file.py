"""Weights in a GGUF file (llama.cpp's format), dequantised to float32, by Hugging Face's names."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from gguf import MODEL_ARCH, get_tensor_name_map
from gguf.quants import dequantize

from dscoder_exp.schema.errors import refuse
from dscoder_exp.schema.llama import LlamaConfig
from dscoder_exp.weights.chat_template import ModelTemplate
from dscoder_exp.weights.formats.gguf_reader import Reader, open_parts, shortest_decimal
from dscoder_exp.weights.formats.gguf_rope import DIVISORS_IN_FILE, rope_scaling_in
from dscoder_exp.weights.formats.hf_config import LLAMA_ONLY, from_hf, listed_tokens, not_llama
from dscoder_exp.weights.formats.tensor_io import gather, row_ranges
from dscoder_exp.weights.generation_config import GenerationConfig
from dscoder_exp.weights.names import parameter_shapes
from dscoder_exp.weights.tokenizer import Fingerprint, fingerprint

if TYPE_CHECKING:
    from gguf.gguf_reader import ReaderTensor
    from tokenizers import Tokenizer

END_TOKENS = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")
EMBEDDING_IN_FILE, HEAD_IN_FILE = "token_embd.weight", "output.weight"


class GGUFFile:
    """A WeightSource: metadata is read when the file is opened, tensors are dequantised on request.

    A file in parts, such as -00002-of-00003.gguf, is read whole, whichever part is given.
    """

    kind: Literal["gguf"] = "gguf"
    directory = None

    def __init__(self, path: Path, key: str) -> None:
        self.path, self._key = path, key
        try:
            parts = open_parts(path, key)
            self._reader = parts[0]
            self._in_file = {tensor.name: tensor for part in parts for tensor in part.tensors}
            self.config = _config(self._reader, self._in_file, path, key)
            self.generation = GenerationConfig(_stop_tokens(self._reader, path))
            source: str | None = self._reader.value("tokenizer.chat_template")
            self.template = ModelTemplate("chat_template", source, str(path)) if source else None
        except (ValueError, TypeError) as error:
            raise refuse(key, f"{path}: its metadata is damaged ({error})", "copy the file again") from error

    @cached_property
    def _tensors(self) -> dict[str, ReaderTensor]:
        """Tensors by Hugging Face's names; a tensor that is not part of a Llama keeps its own."""
        names = get_tensor_name_map(MODEL_ARCH.LLAMA, self.config.num_hidden_layers)
        ours = {names.get_name(name, try_suffixes=(".weight",)): name for name in parameter_shapes(self.config)}
        return {ours.get(name, name): tensor for name, tensor in self._in_file.items() if name != DIVISORS_IN_FILE}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(reversed(tensor.shape.tolist())) for name, tensor in self._tensors.items()}

    def dtype(self, name: str) -> str:
        return "F32"

    def stored_dtype(self, name: str) -> str:
        return self._tensors[name].tensor_type.name

    def tensor(self, name: str) -> np.ndarray:
        return gather(self.row_chunks(name), self.shapes()[name], "F32")

    def row_chunks(self, name: str) -> Iterator[np.ndarray]:
        tensor = self._tensors[name]
        raw = np.asarray(tensor.data)
        order = np.arange(len(raw))
        if name.endswith("self_attn.q_proj.weight"):
            order = _half_split_order(len(raw), self.config.num_attention_heads)
        elif name.endswith("self_attn.k_proj.weight"):
            order = _half_split_order(len(raw), self.config.num_key_value_heads)
        for first, last in row_ranges(self.shapes()[name], "F32"):
            try:
                with np.errstate(invalid="ignore"):  # NaN and infinity are reported later, by tensor
                    values = dequantize(raw[order[first:last]], tensor.tensor_type).reshape(last - first, -1)
            except NotImplementedError as error:
                what = f"{self.path}: {tensor.name} has type {tensor.tensor_type.name}, which gguf can't dequantise"
                raise refuse(self._key, what, "give another quantisation (Q8_0, Q4_1, Q4_K, F16, …)") from error
            yield values

    def tokenizer(self) -> Tokenizer | None:
        from dscoder_exp.weights.formats.gguf_tokenizer import build_tokenizer

        return build_tokenizer(self._reader, self.path)

    def fingerprint(self) -> Fingerprint | None:
        found = self.tokenizer()
        return found and fingerprint(found)

    def other_tokenizer(self, given: Tokenizer) -> str | None:
        from dscoder_exp.weights.formats.gguf_tokenizer import other_entry

        found = other_entry(self._reader, self.path, given)
        return found and f"is not the tokenizer of {self.path}: {found}"


def _half_split_order(rows: int, heads: int) -> np.ndarray:
    """For each row of Hugging Face's query or key matrix [heads * head_dim, …], its row in llama.cpp's matrix.

    For rotary embedding llama.cpp pairs neighbours (0, 1), (2, 3), …, Hugging Face the two halves of a head. Only whole
    rows are permuted, so this also works on quantised bytes.
    """
    return np.arange(rows).reshape(heads, rows // heads // 2, 2).swapaxes(1, 2).reshape(-1)


def _config(reader: Reader, tensors: dict[str, ReaderTensor], path: Path, key: str) -> LlamaConfig:
    """The config from the metadata, mapped to config.json's keys so that `from_hf` checks it."""
    architecture = reader.value("general.architecture")
    if architecture != "llama":
        raise refuse(key, f"{path}: {not_llama('general.architecture', architecture)}", LLAMA_ONLY)
    if reader.value("llama.expert_count"):
        what = f"{path}: a mixture of {reader.value('llama.expert_count')} experts"
        raise refuse(key, what, LLAMA_ONLY)
    if EMBEDDING_IN_FILE not in tensors:
        raise refuse(key, f"{path}: no weights in it ({EMBEDDING_IN_FILE} is missing)", "give a file with weights")
    theta = shortest_decimal(reader.value("llama.rope.freq_base"))
    divisors = tensors.get(DIVISORS_IN_FILE)
    values = {
        "model_type": "llama",
        "vocab_size": reader.value("llama.vocab_size") or tensors[EMBEDDING_IN_FILE].shape.tolist()[-1],
        "hidden_size": reader.value("llama.embedding_length"),
        "intermediate_size": reader.value("llama.feed_forward_length"),
        "num_hidden_layers": reader.value("llama.block_count"),
        "num_attention_heads": reader.value("llama.attention.head_count"),
        "num_key_value_heads": reader.value("llama.attention.head_count_kv"),
        "head_dim": reader.value("llama.attention.key_length") or reader.value("llama.rope.dimension_count"),
        "max_position_embeddings": reader.value("llama.context_length"),
        "sliding_window": reader.value("llama.attention.sliding_window"),
        "rms_norm_eps": shortest_decimal(reader.value("llama.attention.layer_norm_rms_epsilon")),
        "rope_theta": theta,
        "rope_scaling": rope_scaling_in(reader, None if divisors is None else divisors.data, theta),
        "tie_word_embeddings": HEAD_IN_FILE not in tensors,
        "bos_token_id": reader.value("tokenizer.ggml.bos_token_id"),
        "eos_token_id": reader.value("tokenizer.ggml.eos_token_id"),
        "pad_token_id": reader.value("tokenizer.ggml.padding_token_id"),
    }
    return from_hf(values, str(path))


def _stop_tokens(reader: Reader, path: Path) -> tuple[int, ...]:
    """The tokens that end an answer: the end of a text, of a turn, of a message (llama.cpp, llama_vocab::is_eog)."""
    found = (listed_tokens({key: reader.value(key)}, key, str(path)) for key in END_TOKENS)
    return tuple(dict.fromkeys(chain.from_iterable(found)))
