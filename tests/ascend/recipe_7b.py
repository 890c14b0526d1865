"""Measures a step's costs and the peak memory of the 7B recipe by dry runs of the command line: make ascend-dryrun.

The model is a Hugging Face directory of 7B's shape, whose weights are a sparse file: zeros that take no disk space. A
training run with all layers writes a checkpoint of 28 GB, which is removed after the run. --layers 8 fits a laptop.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dryrun import DryRun, Figures, Record, Table, dry_run, product, unavailable_reason
from omegaconf import OmegaConf

REPOSITORY = Path(__file__).resolve().parents[2]
LENGTH = 8192
FEW, MANY = 2, 3  # optimizer steps of two runs, whose difference gives the costs of one step
COPIES = 20  # of the sample's rows, so that there are enough sequences for eight replicas
TRAIN = (
    "+experiment=finetune_8k",
    "model=from_path",
    "tokenizer=tiny",
    f"seq_length={LENGTH}",
    "train.max_eval_sequences=8",
    "train.save_every=null",  # so that the only checkpoint, at the end, has no optimizer state
)
PREDICT = ("task=predict", "runtime=ascend", "predict.prompt=sort", f"predict.max_new_tokens={LENGTH - 64}")
CASES = {
    "dp8": (*TRAIN, "parallel=dp8"),
    "tp8": (*TRAIN, "parallel=tp8", "train.global_batch_size=1"),
    "dp2_tp4": (*TRAIN, "parallel=dp2_tp4", "train.global_batch_size=2"),
    "LoRA on one card": (*TRAIN, "parallel=single", "train.global_batch_size=1", "adapter=lora"),
    "predict tp2": (*PREDICT, "parallel=tp2"),
}
MB, GB = 1e6, 1e9
HOURS = 4 * 3600.0  # time limit of one run, seconds
HEAD = "                   launches   H2D       MB   D2H       MB  waits  HCCL    pool GB  card GB"


@dataclass(frozen=True)
class Measured:
    """A case's peaks in bytes, the maximum over all ranks, and a step's costs on rank 0; None: no training."""

    step: Figures | None
    pool_peak: int
    runtime_peak: int


def main(arguments: Sequence[str]) -> int:
    args = parse(arguments)
    if (reason := unavailable_reason()) is not None:
        print(reason, file=sys.stderr)
        return 2
    print(
        f"7B's shape with {args.layers} layers, sequences of {LENGTH}: costs of a step on rank 0, peaks over all ranks"
    )
    print(HEAD, flush=True)
    table, failed = Table.read(), False
    with tempfile.TemporaryDirectory(prefix="recipe-7b-", dir=args.directory) as folder:
        model = make_model(Path(folder) / "model", args.layers)
        rows = make_rows(Path(folder) / "rows.json")
        for name in args.cases or CASES:
            runs = [run(overrides, Path(folder), args.gib) for overrides in commands(name, model, rows)]
            problems = [problem for run in runs for problem in run.problems(table)]
            failed = failed or bool(problems)
            print(line(name, measured(runs)) if not problems else f"{name:18}failed", *problems, sep="\n  ", flush=True)
    return int(failed)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", type=case, metavar="CASE", help=f"one of: {', '.join(CASES)}; default: all")
    parser.add_argument("--layers", type=int, default=30, help="number of transformer blocks; default 30")
    parser.add_argument(
        "--gib", type=float, default=64, help="memory of a card in GiB; raise it to measure a case that needs more"
    )
    parser.add_argument(
        "--directory", type=Path, help="folder for up to 30 GB of temporary files; default: the system's"
    )
    return parser.parse_args(arguments)


def case(name: str) -> str:
    if name not in CASES:
        raise argparse.ArgumentTypeError(f"unknown case {name!r}; the cases are {', '.join(CASES)}")
    return name


def commands(name: str, model: Path, rows: Path) -> list[list[str]]:
    """Overrides of a case's runs: one for predict, two for training, of which the second has more steps."""
    overrides = [*CASES[name], f"model.path={model}", "tracking=off"]
    if "task=predict" in overrides:
        return [overrides]
    data = [f"data.source={rows}", f"runtime.cache_dir={rows.parent / 'cache'}"]
    return [[*overrides, *data, f"train.max_steps={steps}"] for steps in (FEW, MANY)]


def run(overrides: Sequence[str], folder: Path, gib: float) -> DryRun:
    with tempfile.TemporaryDirectory(dir=folder) as output:
        return dry_run(product(*overrides, f"output_dir={output}/run"), directory=folder, gib=gib, timeout=HOURS)


def measured(runs: Sequence[DryRun]) -> Measured:
    few, many = runs[0].records, runs[-1].records
    step = many[0].figures.per_step_from(few[0].figures, MANY - FEW) if len(runs) > 1 else None

    def pool(record: Record) -> int:
        assert record.pool_peak is not None
        return record.pool_peak

    return Measured(step, max(map(pool, many)), max(record.runtime_peak for record in many))


def line(name: str, found: Measured) -> str:
    peaks = f"{found.pool_peak / GB:8.1f}{found.runtime_peak / GB:9.1f}"
    if (step := found.step) is None:
        return f"{name:18}{'':52}   {peaks}"
    up, down = f"{step.h2d:6.0f}{step.h2d_bytes / MB:9.2f}", f"{step.d2h:6.0f}{step.d2h_bytes / MB:9.2f}"
    return f"{name:18}{step.launches:9.0f}{up}{down}{step.waits:7.0f}{step.collectives:6.0f}   {peaks}"


def make_model(directory: Path, layers: int) -> Path:
    """A Hugging Face directory of conf/model/7b.yaml's shape, in bf16 zeros, with the tests' small tokenizer."""
    from dscoder_exp.schema.llama import LlamaConfig
    from dscoder_exp.weights.formats.hf_config import to_hf
    from dscoder_exp.weights.names import parameter_shapes

    names = LlamaConfig.__dataclass_fields__
    shape = {name: value for name, value in OmegaConf.load(REPOSITORY / "conf/model/7b.yaml").items() if name in names}
    # A dry run's logits read as zeros, so the first generated token is 0. As eos it ends the answer at once.
    ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 2}
    config = LlamaConfig(**{**shape, **ends, "num_hidden_layers": layers, "max_position_embeddings": LENGTH})
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(to_hf(config)))
    (directory / "tokenizer.json").write_bytes((REPOSITORY / "examples/tiny_tokenizer.json").read_bytes())
    make_sparse_weights(
        directory / "model.safetensors", {name: tuple(shape) for name, shape in parameter_shapes(config).items()}
    )
    return directory


def make_sparse_weights(file: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """A sparse safetensors file of bf16 zeros: a header, then a hole of the tensors' size."""
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 2
        for length in shape:
            size *= length
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        out.truncate(8 + len(text) + end)


def make_rows(file: Path) -> Path:
    """The sample's rows COPIES times, made unique."""
    rows = json.loads((REPOSITORY / "examples/code_instructions.json").read_text())
    many = [{**row, "instruction": f"{row['instruction']} ({copy})"} for copy in range(COPIES) for row in rows]
    file.write_text(json.dumps(many))
    return file


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
