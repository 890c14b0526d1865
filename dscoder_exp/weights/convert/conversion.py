"""From one format to another as a file operation: rows are read, checked and written as they are stored."""

from __future__ import annotations

import errno
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
from dscoder_exp.storage.disk_space import shortage
from dscoder_exp.storage.file_names import BESIDE_WEIGHTS, CONFIG_FILE, TOKENIZER_FILE
from dscoder_exp.storage.json_files import write_json
from dscoder_exp.weights.chat_template import keep
from dscoder_exp.weights.check import LoadReport, refuse_incomplete, refuse_other_head
from dscoder_exp.weights.convert.plan import ConversionPlan, TargetTensor, plan
from dscoder_exp.weights.formats.hf_config import to_hf
from dscoder_exp.weights.formats.mindformers import MAP_FILE
from dscoder_exp.weights.formats.tensor_io import TensorWriter
from dscoder_exp.weights.lora.adapter import Adapter
from dscoder_exp.weights.lora.setup import open_adapter
from dscoder_exp.weights.native.manifest import RecordedTensor, write_manifest
from dscoder_exp.weights.native.writer import write_tokenizer
from dscoder_exp.weights.resolve import OpenedModel, open_source, open_tokenizer
from dscoder_exp.weights.source import WeightSource
from dscoder_exp.weights.tokenizer import fingerprint

if TYPE_CHECKING:
    from tokenizers import Tokenizer

INFINITE = {"F64": 0x7FF0_0000_0000_0000, "F32": 0x7F80_0000, "F16": 0x7C00, "BF16": 0x7F80}  # exponents of inf and NaN


@dataclass(frozen=True)
class ConvertedTokenizer:
    """home: the directory of its files, which are copied; None: they are made."""

    tokenizer: Tokenizer
    home: Path | None


@dataclass(frozen=True)
class Conversion:
    """What is to be done, known to be possible as far as headers and directories tell.

    Attributes:
        config: the source's shape, with the special tokens that the `model` group chose.
        tokenizer: goes with the weights; None: there is none.
        adapter: is merged into the weights that are written.
    """

    source: WeightSource
    config: LlamaConfig
    report: LoadReport
    tokenizer: ConvertedTokenizer | None
    target: Path
    plan: ConversionPlan
    adapter: Adapter | None = None


def open_conversion(weights: WeightsConfig, model: ModelConfig, tokenizer: TokenizerConfig) -> Conversion:
    """Looks at everything but the tensors.

    Args:
        model: the shape, where the source doesn't say it; it has to agree with the source otherwise.
        tokenizer: the one that goes with the weights, where none lies beside them.

    Raises:
        Refused: the source can't be opened or lacks tensors; the tokenizer doesn't fit; the target holds something;
            the disk is too small.
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
    if source.beside is not None and not (source.beside / TOKENIZER_FILE).is_file():
        return None
    if source.kind == "gguf" and source.tokenizer() is None:
        return None
    return ConvertedTokenizer(open_tokenizer(tokenizer, opened), source.beside)


def convert(conversion: Conversion, on_tensor: Callable[[], None] = lambda: None) -> None:
    """Write a new directory, whole or not at all.

    Args:
        on_tensor: called after each tensor.

    Raises:
        Refused: the target holds something; the disk is full; a tensor holds NaN or infinity (all of them are named);
            a tensor isn't what was recorded of it; a tied model's head isn't its embedding.
    """
    try:
        _convert(conversion, on_tensor)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        what = f"{conversion.target} can't be written: {error.strerror}; nothing of it was left"
        raise refuse("weights.target", what, "make room, or name a directory on another disk") from error


def _convert(conversion: Conversion, on_tensor: Callable[[], None]) -> None:
    source, config, plan, adapter = conversion.source, conversion.config, conversion.plan, conversion.adapter
    refuse_other_head(source, "weights.source")
    with new_directory(conversion.target, "weights.target") as directory:
        hashes = _write_tensors(conversion, directory, on_tensor)
        dtypes = [item.dtype for item in plan.tensors.values()]
        written = to_hf(config, max(dtypes, key=dtypes.count))
        write_json(directory / CONFIG_FILE, written)
        _keep_files(conversion, directory)
        keep(directory, adapter and adapter.template)
        if plan.index is not None:
            _write_index(directory, plan)
        if plan.tp_size is not None:
            tensors = {
                name: RecordedTensor(item.dtype, item.cut, tuple(hashes[file][name] for file in item.files))
                for name, item in plan.tensors.items()
            }
            write_manifest(
                directory,
                written,
                tensors,
                tp_size=plan.tp_size,
                template=(adapter and adapter.template) or source.template,
                tokenizer=conversion.tokenizer and fingerprint(conversion.tokenizer.tokenizer),
                lineage={
                    "converted_from": str(source.path),
                    "format": source.kind,
                    "merged_adapter": adapter and str(adapter.path),
                },
            )


def disk_problem(target: Path, plan: ConversionPlan) -> Problem | None:
    """Where the weights don't fit beside the target."""
    if (what := shortage(target.absolute().parent, plan.bytes, "written")) is None:
        return None
    return Problem("weights.target", what, "make room, or name a directory on another disk")


def _write_tensors(conversion: Conversion, directory: Path, on_tensor: Callable[[], None]) -> dict[str, dict[str, str]]:
    """File -> tensor -> SHA-256 of what the file holds of it; empty where no record wants them."""
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
            for rows in source.pieces(name):
                if adapter is not None:
                    rows = adapter.merged(name, rows, first, item.dtype)
                finite = finite and _finite(rows, item.dtype)
                writing.result()  # one piece is written and hashed while the next is read
                writing = background.submit(write, item, rows, first)
                first += len(rows)
            if not finite:
                bad.append(name)
            on_tensor()
        writing.result()
    if bad:
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        what = f"{source.path} holds NaN or infinity in {', '.join(bad[:5])}{more}"
        raise refuse("weights.source", what, "such weights compute nothing: take an earlier checkpoint")
    return {file: writer.hashes() for file, writer in writers.items()}


def _finite(rows: np.ndarray, dtype: str) -> bool:
    exponent = INFINITE[dtype]
    bits = rows.view(f"u{rows.itemsize}")
    return bits.size == 0 or int((bits & bits.dtype.type(exponent)).max()) < exponent


def _keep_files(conversion: Conversion, directory: Path) -> None:
    """The tokenizer and what belongs to it, byte for byte where there are files."""
    found = conversion.tokenizer
    for home in (conversion.source.beside, found and found.home):
        for name in BESIDE_WEIGHTS:
            if home is not None and (home / name).is_file():
                shutil.copyfile(home / name, directory / name)
    if found is not None and found.home is None:
        write_tokenizer(directory, found.tokenizer, conversion.config, conversion.source.chat_template)


def _write_index(directory: Path, plan: ConversionPlan) -> None:
    """Where each tensor lies: the suite's is the bare map, transformers' also says the size of all."""
    files: dict[str, Any] = {item.name: item.files[0] for item in plan.tensors.values()}
    if plan.index != MAP_FILE:
        files = {"metadata": {"total_size": plan.bytes}, "weight_map": files}
    write_json(directory / str(plan.index), files)
