"""The shared library of this package's C++ sources, compiled on first use and kept in the cache directory."""

import hashlib
import importlib.util
import os
import platform
import shlex
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

SOURCES = Path(__file__).parent
# Not -ffast-math, which may lose NaN: a step whose loss is NaN would not be skipped.
FLAGS = ["-std=c++17", "-O3", "-fopenmp", "-fPIC", "-fno-math-errno", "-fno-trapping-math"]
FLAGS += ["-fassociative-math", "-fno-signed-zeros", "-freciprocal-math"]
# Compile for this machine's CPU, unless $CXX names one, as a cross compiler has to. Clang on Arm only knows -mcpu.
NATIVE = "-mcpu=native" if platform.machine() == "aarch64" else "-march=native"
CPU = ("model name", "flags", "CPU part", "Features")  # lines of /proc/cpuinfo that tell which instructions it has

# SHA-256 of the oneDNN libraries whose private interface product.cc declares. In another build the same functions could
# take other arguments and silently overwrite memory.
KNOWN_ONEDNN = {
    "efef538c1e966e61baffd52ff45859a606826a698f3477ed2611aa6cff907cbf": "MindSpore 2.10.0, x86-64",
    "4ff77f66f6e8b41f9a3dfcaffc644c4fff375c04fa92a6751f888461e2a8e539": "MindSpore 2.10.0, aarch64",
}
PRODUCT = "product.cc"  # the source that calls oneDNN


@dataclass(frozen=True)
class Library:
    """
    Attributes:
        path: the shared library; None: it couldn't be compiled.
        why: which compiler compiled it, or why it couldn't be compiled.
        products: True: it has the matrix products of product.cc; False: MindSpore's oneDNN isn't in KNOWN_ONEDNN.
    """

    path: Path | None
    why: str
    products: bool = False


@cache
def library() -> Library:
    """The library from the cache; if it isn't there, $CXX or c++ compiles it, in some 5 s."""
    compiler, onednn = os.environ.get("CXX") or "c++", _onednn()
    key = _key(compiler, onednn)
    with_products, without = (_directory() / f"kernels-{key}{end}.so" for end in ("", "-without-products"))
    try:
        if not with_products.is_file() and not without.is_file():
            known = onednn is not None and hashlib.sha256(onednn.read_bytes()).hexdigest() in KNOWN_ONEDNN
            target = with_products if known else without
            target.parent.mkdir(parents=True, exist_ok=True)
            _compile(shlex.split(compiler), onednn if known else None, target)
    except FileNotFoundError:
        return Library(None, f"there is no C++ compiler {compiler!r}: install one (g++), or name it in CXX")
    except subprocess.CalledProcessError as failed:
        return Library(None, f"{compiler!r} failed: {_last_line(failed)}")
    except (OSError, ValueError) as failed:
        return Library(None, f"can't run {compiler!r} or write to {_directory()}: {failed}")
    if not with_products.is_file():
        why = f"compiled by {compiler!r}; matrix products by MindSpore's operators, since its oneDNN build is unknown"
        return Library(without, why)
    return Library(with_products, f"compiled by {compiler!r}", products=True)


def _compile(compiler: list[str], onednn: Path | None, target: Path) -> None:
    """Compile all sources, at the same time, into `target`; product.cc only where oneDNN is given, which is linked."""
    with tempfile.TemporaryDirectory(dir=target.parent) as directory:
        command, output = [*compiler, *_flags(compiler)], Path(directory) / target.name
        sources = [path for path in sorted(SOURCES.glob("*.cc")) if onednn is not None or path.name != PRODUCT]
        objects = [str(output.with_name(f"{source.stem}.o")) for source in sources]
        each = [[*command, "-c", str(source), "-o", made] for source, made in zip(sources, objects, strict=True)]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(_run, each))
        linked = [] if onednn is None else [f"-Wl,-rpath,{onednn.parent}", str(onednn)]
        # z defs: undefined symbols are an error when linking, not when loading
        _run([*command, "-shared", "-Wl,-z,defs", *objects, *linked, "-o", str(output)])
        output.replace(target)


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


def _last_line(failed: subprocess.CalledProcessError) -> str:
    """The compiler's last error line, without collect2's, which gives only the linker's exit status."""
    lines = [line for line in failed.stderr.strip().splitlines() if not line.startswith("collect2:")]
    return lines[-1] if lines else str(failed)


def _flags(compiler: list[str]) -> list[str]:
    """FLAGS, and NATIVE unless $CXX itself names a CPU."""
    named = any(option.startswith(("-march=", "-mcpu=")) for option in compiler)
    return FLAGS if named else [NATIVE, *FLAGS]


def _directory() -> Path:
    """The default of runtime.cache_dir (conf/runtime)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path(os.environ.get("HOME", "/tmp")) / ".cache") / "dscoder_exp"


def _onednn() -> Path | None:
    """MindSpore's own oneDNN library, which MindSpore has loaded by the time ours is; None: not found."""
    found = importlib.util.find_spec("mindspore")
    origin = Path(found.origin if found and found.origin else "")
    return next((origin.parent / "lib").glob("libdnnl.so*"), None)


def _key(compiler: str, onednn: Path | None) -> str:
    """Hash of all that the machine code depends on, since machines with other CPUs may share the cache directory."""
    found = onednn.stat() if onednn is not None else None
    identity = f"{onednn} {found.st_size} {found.st_mtime_ns}" if found else "no oneDNN"
    about_cpu = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
    parts = [
        compiler,
        NATIVE,
        *FLAGS,
        identity,
        *sorted(KNOWN_ONEDNN),
        *(line for line in about_cpu if line.startswith(CPU)),
    ]
    parts += [path.read_text() for path in sorted(SOURCES.glob("*.[ch]*"))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
