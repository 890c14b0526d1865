"""The library of the C++ sources that lie here, compiled when it is first asked for and kept."""

import hashlib
import importlib.util
import os
import platform
import shlex
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

SOURCES = Path(__file__).parent
# Not -ffast-math: a NaN has to stay one, or a step whose loss is no number would go unseen.
FLAGS = ["-std=c++17", "-O3", "-fopenmp", "-shared", "-fPIC", "-fno-math-errno", "-fno-trapping-math"]
FLAGS += ["-fassociative-math", "-fno-signed-zeros", "-freciprocal-math"]
# For the CPU that is there, where $CXX names none, as it has to across machines. Clang on Arm knows -mcpu alone.
NATIVE = "-mcpu=native" if platform.machine() == "aarch64" else "-march=native"
CPU = ("model name", "flags", "CPU part", "Features")  # lines of /proc/cpuinfo that tell what code it runs


# SHA-256 of the oneDNN libraries whose private interface product.cc declares: in another build the same names could
# take other arguments, and memory would be overwritten without a word.
KNOWN_ONEDNN = {
    "efef538c1e966e61baffd52ff45859a606826a698f3477ed2611aa6cff907cbf": "MindSpore 2.10.0, x86-64",
    "4ff77f66f6e8b41f9a3dfcaffc644c4fff375c04fa92a6751f888461e2a8e539": "MindSpore 2.10.0, aarch64",
}
PRODUCT = "product.cc"  # the source that calls oneDNN


@dataclass(frozen=True)
class Library:
    """
    Attributes:
        path: None where it could not be compiled.
        why: by which compiler it was, or why it could not be.
        products: whether it holds matrix products, by MindSpore's oneDNN; False: that one is not known.
    """

    path: Path | None
    why: str
    products: bool = False


@cache
def library() -> Library:
    """From the cache, or compiled into it by $CXX or c++, which takes some 5 s."""
    compiler, onednn = os.environ.get("CXX") or "c++", _onednn()
    key = _key(compiler, onednn)
    with_products, without = (_directory() / f"kernels-{key}{end}.so" for end in ("", "-without-products"))
    try:
        if not with_products.is_file() and not without.is_file():
            known = onednn is not None and hashlib.sha256(onednn.read_bytes()).hexdigest() in KNOWN_ONEDNN
            made = with_products if known else without
            made.parent.mkdir(parents=True, exist_ok=True)
            _compile(shlex.split(compiler), onednn if known else None, made)
    except FileNotFoundError:
        return Library(None, f"there is no C++ compiler {compiler!r}: install one (g++), or name it in CXX")
    except subprocess.CalledProcessError as failed:
        return Library(None, f"{compiler!r} failed: {_told(failed)}")
    except (OSError, ValueError) as failed:
        return Library(None, f"{compiler!r}, or a file in {_directory()}: {failed}")
    if not with_products.is_file():
        why = f"compiled by {compiler!r}; products by MindSpore's operators, since its oneDNN is not one that is known"
        return Library(without, why)
    return Library(with_products, f"compiled by {compiler!r}", products=True)


def _compile(compiler: list[str], onednn: Path | None, made: Path) -> None:
    """With matrix products where oneDNN is given."""
    with tempfile.TemporaryDirectory(dir=made.parent) as directory:
        output = Path(directory) / made.name
        sources = [path for path in sorted(SOURCES.glob("*.cc")) if onednn is not None or path.name != PRODUCT]
        options = [*_flags(compiler), "-Wl,-z,defs"]  # what a library lacks is told here
        linked = [] if onednn is None else [f"-Wl,-rpath,{onednn.parent}", str(onednn)]
        command = [*compiler, *options, *map(str, sources), *linked, "-o", str(output)]
        subprocess.run(command, check=True, capture_output=True, text=True)
        output.replace(made)


def _told(failed: subprocess.CalledProcessError) -> str:
    """The last line that says something; GCC's linker ends with its exit status."""
    lines = [line for line in failed.stderr.strip().splitlines() if not line.startswith("collect2:")]
    return lines[-1] if lines else str(failed)


def _flags(compiler: list[str]) -> list[str]:
    """$CXX's own CPU wins."""
    named = any(option.startswith(("-march=", "-mcpu=")) for option in compiler)
    return FLAGS if named else [NATIVE, *FLAGS]


def _directory() -> Path:
    """As conf/runtime's cache_dir."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path(os.environ.get("HOME", "/tmp")) / ".cache") / "dscoder_exp"


def _onednn() -> Path | None:
    """What MindSpore's own products are computed with; it has loaded it when our library is loaded."""
    found = importlib.util.find_spec("mindspore")
    origin = Path(found.origin if found and found.origin else "")
    return next((origin.parent / "lib").glob("libdnnl.so*"), None)


def _key(compiler: str, onednn: Path | None) -> str:
    """Of all that the code follows from: a home directory may be shared by machines of several kinds."""
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
