"""Time and peak memory of converting the 7B model: python bench/convert_7b.py DIR (needs 56 GB of disk space).

Makes random bf16 weights of conf/model/7b.yaml's shape (13.8 GB, Hugging Face shards), copies them with cp for
comparison, converts them to a native checkpoint of 8 tensor-parallel shards and back, and compares the result byte by
byte.
"""

import argparse
import filecmp
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import yaml

from dscoder_exp.app import config_directory
from dscoder_exp.schema.llama import LlamaConfig
from dscoder_exp.storage.file_names import CONFIG_FILE, INDEX_FILE
from dscoder_exp.weights.formats.hf_config import to_hf
from dscoder_exp.weights.formats.safetensors_file import safetensors_layout
from dscoder_exp.weights.formats.tensor_io import TensorWriter, row_ranges, size_of
from dscoder_exp.weights.names import parameter_shapes

SHARD = 5 * 10**9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="a new directory, on a disk with 56 GB free")
    directory = parser.parse_args().directory
    directory.mkdir(parents=True)
    source, native, back = (directory / name for name in ("hf", "native", "back"))
    size = make(source)
    measured = {"cp": run(directory, ["cp", "-r", str(source), str(directory / "copy")])}
    shutil.rmtree(directory / "copy")
    measured["HF -> native, 8 shards"] = convert(source, native, "weights.format=native", "weights.tensor=8")
    measured["native, 8 shards -> HF"] = convert(native, back, "weights.format=hf")
    for name, (seconds, peak) in measured.items():
        print(f"{name:25}{seconds:7.1f} s {size / 1e9 / seconds:6.2f} GB/s   peak {peak / 1e9:5.2f} GB")
    files = sorted(file.name for file in source.iterdir())
    same, other, lost = filecmp.cmpfiles(source, back, files, shallow=False)
    print(f"byte by byte: {len(same)} files are equal; different or missing: {other + lost or 'none'}")


def make(target: Path) -> int:
    """Write random weights, normal(0, 0.02) in bf16, as a Hugging Face checkpoint; returns their size in bytes."""
    values = yaml.safe_load((config_directory() / "model" / "7b.yaml").read_text())
    config = LlamaConfig(**{name: values[name] for name in LlamaConfig.__dataclass_fields__})
    shards: list[dict[str, tuple[str, tuple[int, ...]]]] = [{}]
    left = SHARD
    for name, shape in parameter_shapes(config).items():
        if (left := left - size_of(shape, "BF16")) < 0:
            shards.append({})
            left = SHARD - size_of(shape, "BF16")
        shards[-1][name] = ("BF16", shape)
    target.mkdir()
    generator = np.random.default_rng(0)
    index = {}
    for number, tensors in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        index |= dict.fromkeys(tensors, file)
        with TensorWriter(target / file, safetensors_layout(tensors), hashed=False) as writer:
            for name, (dtype, shape) in tensors.items():
                for first, last in row_ranges(shape, dtype):
                    drawn = generator.standard_normal((last - first, *shape[1:]), np.float32) * np.float32(0.02)
                    writer.write(name, (drawn.view(np.uint32) >> 16).astype(np.uint16))
        print(f"wrote {file}", flush=True)
    size = sum(size_of(shape, "BF16") for shape in parameter_shapes(config).values())
    (target / CONFIG_FILE).write_text(json.dumps(to_hf(config, "BF16"), indent=2, ensure_ascii=False) + "\n")
    mapped = {"metadata": {"total_size": size}, "weight_map": index}
    (target / INDEX_FILE).write_text(json.dumps(mapped, indent=2, ensure_ascii=False) + "\n")
    return size


def convert(source: Path, target: Path, *options: str) -> tuple[float, int]:
    """Run task=convert; see `run`."""
    command = [sys.executable, "-m", "dscoder_exp", "task=convert", f"weights.source={source}"]
    return run(target.parent, [*command, f"weights.target={target}", *options, f"hydra.sweep.dir={target.parent}/job"])


def run(directory: Path, command: list[str]) -> tuple[float, int]:
    """Run a command that must succeed: its seconds, and the peak resident memory of its process tree in bytes."""
    print("$", *command, flush=True)
    started, peak = time.monotonic(), 0
    with subprocess.Popen(command, cwd=directory) as process:
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                tree = [watched, *watched.children(recursive=True)]
                peak = max(peak, sum(member.memory_info().rss for member in tree))
            except psutil.NoSuchProcess:
                pass
            time.sleep(0.05)
    if process.returncode:
        sys.exit(process.returncode)
    return time.monotonic() - started, peak


if __name__ == "__main__":
    main()
