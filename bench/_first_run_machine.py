"""The machine report of ascend_first_run.py: versions, cards, limits and environment variables."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

DEVICES = Path("/dev")
REPORTED = (  # prefixes of the environment variables that are reported
    "ASCEND", "HCCL", "MS_", "GLOG", "RANK", "DEVICE_ID", "OMP_", "LD_LIBRARY_PATH", "LD_PRELOAD", "PYTHONPATH", "PATH",
    "TOOLCHAIN_HOME", "NPU", "CANN", "TE_", "ATB", "GLIBC_TUNABLES", "CXX",
)  # fmt: skip
SECRET = ("TOKEN", "SECRET", "PASS", "KEY", "CREDENTIAL", "AUTH")
ROOTS = ("/usr/local/Ascend", str(Path.home() / "Ascend"))  # default directories of driver and CANN
VERSIONS = ("driver/version.info", "firmware/version.info", "*/latest/version.cfg", "*/compiler/version.info")
VERSIONS += ("*/latest/*/ascend_toolkit_install.info", "*/*/ascend_toolkit_install.info")
HCCN = "/usr/local/Ascend/driver/tools/hccn_tool"
COMMANDS = {
    "uname": ["uname", "-a"],
    "os-release": ["cat", "/etc/os-release"],
    "cpu": ["lscpu"],
    "memory": ["free", "-g"],
    "shared memory": ["df", "-h", "/dev/shm"],
    "limits": ["sh", "-c", "ulimit -a"],
    "c++": ["c++", "--version"],
    "python": [sys.executable, "--version"],
    "packages": [sys.executable, "-m", "pip", "list", "--disable-pip-version-check"],
    "mindspore": [sys.executable, "-c", "import mindspore as ms; print(ms.__version__, ms.__file__)"],
    "te": [sys.executable, "-c", "import te; print(te.__file__)"],
    "npu-smi": ["npu-smi", "info"],
    "topology": ["npu-smi", "info", "-t", "topo"],
}


def cards() -> list[int]:
    """Numbers of this machine's NPUs."""
    return sorted(int(path.name.removeprefix("davinci")) for path in DEVICES.glob("davinci[0-9]*"))


def relevant(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables to report: with a prefix in REPORTED, and without a word of SECRET in the name."""
    chosen = {name: value for name, value in environment.items() if name.startswith(REPORTED)}
    return {name: chosen[name] for name in sorted(chosen) if not any(word in name.upper() for word in SECRET)}


def report() -> str:
    """The whole report in Markdown."""
    sections = {"environment": "\n".join(f"{name}={value}" for name, value in relevant(os.environ).items())}
    sections |= {name: _output(command) for name, command in COMMANDS.items()}
    for card in cards():
        for option in ("-ip", "-link", "-net_health", "-tls"):
            sections[f"network of card {card}, {option}"] = _output([HCCN, "-i", str(card), option, "-g"])
    sections |= {str(file): file.read_text(errors="replace") for file in _version_files()}
    return "\n".join(f"## {name}\n\n```\n{text.strip()}\n```\n" for name, text in sections.items())


def _version_files() -> Iterator[Path]:
    roots = {Path(root) for root in (*ROOTS, os.environ.get("ASCEND_HOME_PATH", ROOTS[0])) if Path(root).is_dir()}
    found = {
        file.resolve()
        for root in roots
        for pattern in (*VERSIONS, "compiler/version.info")
        for file in root.glob(pattern)
    }
    yield from sorted(found)


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"not available: {error}"
    return done.stdout if done.returncode == 0 else f"{done.stdout}\n(exit code {done.returncode})"
