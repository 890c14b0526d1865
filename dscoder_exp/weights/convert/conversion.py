"""Convert weights between formats: rows are copied in their stored dtype and checked for NaN and infinity."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dscoder_exp.hub.locate import locate
from dscoder_exp.schema.config import ModelConfig, TokenizerConfig, WeightsConfig
from dscoder_exp.schema.errors import Problem, Refused, refuse
from dscoder_exp.schema.llama import LlamaConfig
from dscoder_exp.storage.atomic_directory import new_directory, target_problem
from dscoder_exp.storage.disk_space import NO_SPACE, shortage
from dscoder_exp.storage.file_names import CONFIG_FILE, TOKENIZER_FILE, TOKENIZER_FILES
from dscoder_exp.storage.json_files import write_json
from dscoder_exp.weights.chat_template import ModelTemplate, write_template
from dscoder_exp.weights.check import LoadReport, refuse_incomplete, refuse_untied_head
from dscoder_exp.weights.convert.plan import ConversionPlan, TargetTensor, plan
from dscoder_exp.weights.formats.hf_config import to_hf
from dscoder_exp.weights.formats.mindformers import MAP_FILE
from dscoder_exp.weights.formats.tensor_io import TensorWriter
from dscoder_exp.weights.generation_config import write_generation_config
from dscoder_exp.weights.lora.adapter import Adapter
from dscoder_exp.weights.lora.setup import open_adapter
from dscoder_exp.weights.native.manifest import RecordedTensor, write_manifest
from dscoder_exp.weights.native.writer import write_tokenizer
from dscoder_exp.weights.resolve import OpenedModel, open_source, open_tokenizer
from dscoder_exp.weights.source import WeightSource
from dscoder_exp.weights.tokenizer import fingerprint

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Exponent bits, all set in infinity and NaN
EXPONENT_MASKS = {"F64": 0x7FF0_0000_0000_0000, "F32": 0x7F80_0000, "F16": 0x7C00, "BF16": 0x7F80}


@dataclass(frozen=True)
class ConvertedTokenizer:
    """A tokenizer that is written with the weights.

    directory: of its files, which are copied; None: they are written from `tokenizer`.
    """

    tokenizer: Tokenizer
    directory: Path | None


@dataclass(frozen=True)
class Conversion:
    """A conversion whose source and target have been checked, but for the values of the tensors.

    Attributes:
        config: the source's config, with the special tokens of the `model` group.
        tokenizer: written with the weights; None: there is none.
        adapter: LoRA adapter that is merged into the written weights.
    """

    source: WeightSource
    config: LlamaConfig
    report: LoadReport
    tokenizer: ConvertedTokenizer | None
    target: Path
    plan: ConversionPlan
    adapter: Adapter | None = None

    @property
    def template(self) -> ModelTemplate | None:
        """The prompt format of what is written: the adapter was trained with its own."""
        return (self.adapter and self.adapter.template) or self.source.template

    @property
    def opened(self) -> OpenedModel:
        """What is written."""
        return OpenedModel(self.config, self.source, self.template, self.adapter)


def open_conversion(weights: WeightsConfig, model: ModelConfig, tokenizer: TokenizerConfig) -> Conversion:
    """Check everything but the values of the tensors, and plan the conversion.

    Args:
        model: the shape, for a source without a config; otherwise its keys must agree with the source.
        tokenizer: the weights' tokenizer, if the source has none.

    Raises:
        Refused: the source can't be opened or lacks tensors; the tokenizer or the adapter doesn't fit; the target is
            not empty; the disk is too small.
    """
    source, config = open_source(weights.source or "", "weights.source", model)
    report = refuse_incomplete(source, "weights.source", weights.allow, dtype=None)
    found = _open_tokenizer(source, config, tokenizer)
    merged, opened = weights.merge_adapter, OpenedModel(config, source, None)
    adapter = None if merged is None else open_adapter(merged, "weights.merge_adapter", opened)
    conversion = Conversion(source, config, report, found, Path(weights.target or ""), plan(source, weights), adapter)
    problems = [target_problem(conversion.target, "weights.target"), disk_problem(conversion.target, conversion.plan)]
    if wrong := [problem for problem in problems if problem is not None]:
        raise Refused(wrong)
    return conversion


def _open_tokenizer(source: WeightSource, config: LlamaConfig, tokenizer: TokenizerConfig) -> ConvertedTokenizer | None:
    opened = OpenedModel(config, source, None)
    if tokenizer.path is not None:
        given = locate(tokenizer.path, "tokenizer.path")
        return ConvertedTokenizer(open_tokenizer(tokenizer, opened), given if given.is_dir() else None)
    if source.directory is not None and not (source.directory / TOKENIZER_FILE).is_file():
        return None
    if source.kind == "gguf" and source.tokenizer() is None:
        return None
    return ConvertedTokenizer(open_tokenizer(tokenizer, opened), source.directory)


def convert(conversion: Conversion, on_tensor: Callable[[], None] = lambda: None) -> None:
    """Write the target directory; nothing is left of it after an error.

    Args:
        on_tensor: called after each tensor.

    Raises:
        Refused: the target is not empty; the disk is full; tensors hold NaN or infinity (the message names them); a
            tensor's SHA-256 differs from the recorded one; a tied model's stored head differs from its embedding.
    """
    try:
        _convert(conversion, on_tensor)
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        what = f"{conversion.target} can't be written: {error.strerror}; it was removed"
        raise refuse("weights.target", what, "make room, or choose a directory on another disk") from error


def _convert(conversion: Conversion, on_tensor: Callable[[], None]) -> None:
    source, config, plan, adapter = conversion.source, conversion.config, conversion.plan, conversion.adapter
    generation = conversion.opened.generation
    refuse_untied_head(source, "weights.source")
    with new_directory(conversion.target, "weights.target") as directory:
        hashes = _write_tensors(conversion, directory, on_tensor)
        dtypes = [item.dtype for item in plan.tensors.values()]
        written = to_hf(config, max(dtypes, key=dtypes.count), generation.stop_token_ids)
        write_json(directory / CONFIG_FILE, written)
        write_generation_config(directory, config, generation)
        _copy_files(conversion, directory)
        write_template(directory, conversion.template)
        if plan.index is not None:
            _write_index(directory, plan)
        if plan.tp_size is not None:
            tensors = {
                name: RecordedTensor(item.dtype, item.partition, tuple(hashes[file][name] for file in item.files))
                for name, item in plan.tensors.items()
            }
            write_manifest(
                directory,
                written,
                tensors,
                tp_size=plan.tp_size,
                template=conversion.template and conversion.template.name,
                tokenizer=conversion.tokenizer and fingerprint(conversion.tokenizer.tokenizer),
                lineage={
                    "converted_from": str(source.path),
                    "format": source.kind,
                    "merged_adapter": adapter and str(adapter.path),
                },
            )


def disk_problem(target: Path, plan: ConversionPlan) -> Problem | None:
    """The problem that the planned weights don't fit on the target's disk; None if they do."""
    if (what := shortage(target.absolute().parent, plan.bytes, "written")) is None:
        return None
    return Problem("weights.target", what, "make room, or choose a directory on another disk")


def _write_tensors(conversion: Conversion, directory: Path, on_tensor: Callable[[], None]) -> dict[str, dict[str, str]]:
    """Write all tensors; return file -> tensor name -> SHA-256 of its slice there, for a native checkpoint only."""
    source, plan, adapter, bad = conversion.source, conversion.plan, conversion.adapter, []
    with ExitStack() as stack, ThreadPoolExecutor(1) as background:
        writers = {
            file: stack.enter_context(TensorWriter(directory / file, layout, hashed=plan.tp_size is not None))
            for file, layout in plan.layouts().items()
        }

        def write(item: TargetTensor, rows: np.ndarray, first: int) -> None:
            for file, part in item.slices(rows, first):
                writers[file].write(item.name, part)

        writing = background.submit(lambda: None)
        for name, item in plan.tensors.items():
            finite, first = True, 0
            for rows in source.row_chunks(name):
                if adapter is not None:
                    rows = adapter.merge_rows(name, rows, first, item.dtype)
                finite = finite and _finite(rows, item.dtype)
                writing.result()  # a chunk is written and hashed while the next one is read
                writing = background.submit(write, item, rows, first)
                first += len(rows)
            if not finite:
                bad.append(name)
            on_tensor()
        writing.result()
    if bad:
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        what = f"{source.path} holds NaN or infinity in {', '.join(bad[:5])}{more}"
        raise refuse("weights.source", what, "such weights are unusable: take an earlier checkpoint")
    return {file: writer.hashes() for file, writer in writers.items()}


def _finite(rows: np.ndarray, dtype: str) -> bool:
    exponent = EXPONENT_MASKS[dtype]
    bits = rows.view(f"u{rows.itemsize}")
    return bits.size == 0 or int((bits & bits.dtype.type(exponent)).max()) < exponent


def _copy_files(conversion: Conversion, directory: Path) -> None:
    """Copy the tokenizer's files, and write the tokenizer if it has none."""
    found = conversion.tokenizer
    for folder in (conversion.source.directory, found and found.directory):
        for name in TOKENIZER_FILES:
            if folder is not None and (folder / name).is_file():
                shutil.copyfile(folder / name, directory / name)
    if found is not None and found.directory is None:
        write_tokenizer(directory, found.tokenizer, conversion.config, {})


def _write_index(directory: Path, plan: ConversionPlan) -> None:
    """Write the index: MindSpore Transformers' is only the map of tensors to files, transformers' has a total size."""
    files: dict[str, Any] = {item.name: item.files[0] for item in plan.tensors.values()}
    if plan.index != MAP_FILE:
        files = {"metadata": {"total_size": plan.bytes}, "weight_map": files}
    write_json(directory / str(plan.index), files)
