"""From one format to another as a file operation: rows are read, checked and written as they are stored."""

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dscoder_exp.schema.config import WeightsConfig
from dscoder_exp.schema.errors import Problem, Refused, refuse
from dscoder_exp.schema.size import bytes_of_size
from dscoder_exp.weights.check import LoadReport, refuse_incomplete
from dscoder_exp.weights.checkpoint import new_directory, target_problem, write_json, write_record, write_tokenizer
from dscoder_exp.weights.directory import CONFIG_FILE, INDEX_FILE, WEIGHTS_FILE
from dscoder_exp.weights.hf_config import to_hf
from dscoder_exp.weights.layout import INPUTS, Cut, cut_of, file_name
from dscoder_exp.weights.names import expected
from dscoder_exp.weights.safetensors_file import SafetensorsWriter, chunks, size_of
from dscoder_exp.weights.source import WeightSource, open_weights

# What lies beside the weights and goes with them.
KEPT = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
)
INFINITE = {"F64": 0x7FF0_0000_0000_0000, "F32": 0x7F80_0000, "F16": 0x7C00, "BF16": 0x7F80}  # exponents of inf and NaN
SPARE = 16 * 1024**2  # bytes that everything but the weights may take


@dataclass(frozen=True)
class Stored:
    """A tensor as the target holds it: rank r's slice, or all of it, lies in files[r]."""

    dtype: str
    cut: Cut
    files: tuple[str, ...]

    def slices(self, rows: np.ndarray, first: int) -> Iterator[tuple[str, np.ndarray]]:
        """(file, its part) of rows that begin at row `first`."""
        if self.cut.axis == INPUTS:
            width = self.cut.slice_shape[1]
            for rank, file in enumerate(self.files):
                yield file, rows[:, rank * width : (rank + 1) * width]
            return
        height = self.cut.slice_shape[0]
        for rank in range(first // height, -(-(first + len(rows)) // height)):
            start = rank * height - first
            yield self.files[rank], rows[max(start, 0) : start + height]


@dataclass(frozen=True)
class Plan:
    """What a target will hold.

    ways: the ranks of a native checkpoint; None: a Hugging Face directory.
    """

    files: tuple[str, ...]
    tensors: dict[str, Stored]
    ways: int | None

    @property
    def bytes(self) -> int:
        """Of all weights."""
        return sum(size_of(item.cut.shape, item.dtype) for item in self.tensors.values())


@dataclass(frozen=True)
class Conversion:
    """What is to be done, known to be possible as far as headers and directories tell."""

    source: WeightSource
    report: LoadReport
    target: Path
    plan: Plan


def open_conversion(weights: WeightsConfig) -> Conversion:
    """Looks at everything but the tensors.

    Raises:
        Refused: the source can't be opened or lacks tensors; the target holds something; the disk is too small.
    """
    source = open_weights(weights.source or "", "weights.source")
    report = refuse_incomplete(source, "weights.source")
    size = bytes_of_size(weights.max_shard_size)
    plan = plan_native(source, weights.tensor) if weights.format == "native" else plan_hf(source, size or 0)
    target = Path(weights.target or "")
    problems = [target_problem(target, "weights.target"), disk_problem(target, plan.bytes)]
    if found := [problem for problem in problems if problem is not None]:
        raise Refused(found)
    return Conversion(source, report, target, plan)


def plan_hf(source: WeightSource, max_shard_size: int) -> Plan:
    """Whole tensors, in files of at most `max_shard_size` bytes (a larger tensor has a file of its own)."""
    shapes = expected(source.config)
    groups: list[list[str]] = [[]]
    size = 0
    for name, shape in shapes.items():
        more = size_of(shape, source.dtype(name))
        if groups[-1] and size + more > max_shard_size:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += more
    files = [f"model-{number:05d}-of-{len(groups):05d}.safetensors" for number in range(1, len(groups) + 1)]
    files = [WEIGHTS_FILE] if len(groups) == 1 else files
    tensors = {
        name: Stored(source.dtype(name), Cut(shapes[name], None, 1), (file,))
        for file, group in zip(files, groups, strict=True)
        for name in group
    }
    return Plan(tuple(files), tensors, None)


def plan_native(source: WeightSource, ways: int) -> Plan:
    """Each tensor cut over `ways` ranks, a file a rank."""
    files = tuple(file_name(rank, ways) for rank in range(ways))
    tensors = {}
    for name, shape in expected(source.config).items():
        cut = cut_of(name, shape, ways)
        tensors[name] = Stored(source.dtype(name), cut, files[: cut.ways])
    return Plan(files, tensors, ways)


def convert(source: WeightSource, target: Path, plan: Plan, on_tensor: Callable[[], None] = lambda: None) -> None:
    """Write a checked source (weights/check.py) to a new directory, whole or not at all.

    Args:
        on_tensor: called after each tensor.

    Raises:
        Refused: the target holds something; a tensor holds NaN or infinity (all of them are named).
    """
    with new_directory(target, "weights.target") as directory:
        hashes = _write_tensors(source, directory, plan, on_tensor)
        dtypes = [item.dtype for item in plan.tensors.values()]
        config = to_hf(source.config, max(dtypes, key=dtypes.count))
        write_json(directory / CONFIG_FILE, config)
        _keep_files(source, directory)
        if plan.ways is None:
            _write_index(directory, plan)
            return
        tensors = {
            name: (item.dtype, item.cut, [hashes[file][name] for file in item.files])
            for name, item in plan.tensors.items()
        }
        lineage = {"converted_from": str(source.path), "format": source.kind}
        write_record(directory, config, tensors, ways=plan.ways, template=source.template, lineage=lineage)


def disk_problem(target: Path, size: int) -> Problem | None:
    """Where `size` bytes of weights don't fit beside the target."""
    nearest = next(path for path in target.absolute().parents if path.exists())
    free = shutil.disk_usage(nearest).free
    if free >= size + SPARE:
        return None
    what = f"{size / 1e9:.1f} GB are to be written, and the disk of {nearest} has {free / 1e9:.1f} GB left"
    return Problem("weights.target", what, "make room, or name a directory on another disk")


def _write_tensors(
    source: WeightSource, directory: Path, plan: Plan, on_tensor: Callable[[], None]
) -> dict[str, dict[str, str]]:
    """File -> tensor -> SHA-256 of what the file holds of it."""
    contents: dict[str, dict[str, tuple[str, tuple[int, ...]]]] = {file: {} for file in plan.files}
    for name, item in plan.tensors.items():
        for file in item.files:
            contents[file][name] = (item.dtype, item.cut.slice_shape)
    bad = []
    with ExitStack() as stack, ThreadPoolExecutor(1) as background:
        writers = {
            file: stack.enter_context(SafetensorsWriter(directory / file, tensors))
            for file, tensors in contents.items()
        }

        def write(name: str, item: Stored, rows: np.ndarray, first: int) -> None:
            for file, part in item.slices(rows, first):
                writers[file].write(name, part)

        writing = background.submit(lambda: None)
        for name, item in plan.tensors.items():
            finite = True
            for first, last in chunks(item.cut.shape, item.dtype):
                rows = source.rows(name, first, last)
                finite = finite and _finite(rows, item.dtype)
                writing.result()  # one chunk is written and hashed while the next is read
                writing = background.submit(write, name, item, rows, first)
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


def _keep_files(source: WeightSource, directory: Path) -> None:
    """The tokenizer and what belongs to it, byte for byte; a GGUF's own is built."""
    for name in KEPT:
        if (source.path / name).is_file():  # beneath a GGUF file lies none
            shutil.copyfile(source.path / name, directory / name)
    if source.kind == "gguf" and (tokenizer := source.tokenizer()) is not None:
        write_tokenizer(directory, tokenizer, source.config, source.chat_template)


def _write_index(directory: Path, plan: Plan) -> None:
    """Where each tensor lies, if there are several files."""
    if len(plan.files) > 1:
        files = {name: item.files[0] for name, item in plan.tensors.items()}
        write_json(directory / INDEX_FILE, {"metadata": {"total_size": plan.bytes}, "weight_map": files})
