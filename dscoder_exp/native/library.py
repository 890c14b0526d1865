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


@dataclass(frozen=True)
class Library:
    """
    Attributes:
        path: None where it could not be compiled.
        why: by which compiler it was, or why it could not be.
    """

    path: Path | None
    why: str


@cache
def library() -> Library:
    """From the cache, or compiled into it by $CXX or c++, which takes some 5 s."""
    compiler, onednn = os.environ.get("CXX") or "c++", _onednn()
    if onednn is None:
        return Library(None, "MindSpore has come without oneDNN")
    kept = _directory() / f"kernels-{_key(compiler, onednn)}.so"
    try:
        if not kept.is_file():
            kept.parent.mkdir(parents=True, exist_ok=True)
            _compile(shlex.split(compiler), onednn, kept)
    except FileNotFoundError:
        return Library(None, f"there is no C++ compiler {compiler!r}: install one (g++), or name it in CXX")
    except subprocess.CalledProcessError as failed:
        return Library(None, f"{compiler!r} failed: {_told(failed)}")
    except (OSError, ValueError) as failed:
        return Library(None, f"{compiler!r}, or a file in {kept.parent}: {failed}")
    return Library(kept, f"compiled by {compiler!r}")


def _compile(compiler: list[str], onednn: Path, made: Path) -> None:
    with tempfile.TemporaryDirectory(dir=made.parent) as directory:
        output = Path(directory) / made.name
        sources = map(str, sorted(SOURCES.glob("*.cc")))
        options = [*_flags(compiler), f"-Wl,-rpath,{onednn.parent}", "-Wl,-z,defs"]  # what oneDNN lacks is told here
        command = [*compiler, *options, *sources, str(onednn), "-o", str(output)]
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


def _key(compiler: str, onednn: Path) -> str:
    """Of all that the code follows from: a home directory may be shared by machines of several kinds."""
    about_cpu = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
    parts = [compiler, NATIVE, *FLAGS, str(onednn), *(line for line in about_cpu if line.startswith(CPU))]
    parts += [path.read_text() for path in sorted(SOURCES.glob("*.[ch]*"))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
