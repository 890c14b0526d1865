"""The wheel holds all that a run needs, and runs without the checkout: other interpreter, other directory."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path) -> str:
    """Standard output; the environment is the user's without what leads to the checkout or to an index."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PIP_"))}
    ran = subprocess.run(command, cwd=cwd, env=env | {"PIP_NO_INDEX": "1"}, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", directory]
    run(*pip, REPOSITORY, cwd=directory)
    [built] = directory.iterdir()
    return built


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """site-packages of a fresh environment that holds the wheel.

    The dependencies are those of the environment at hand, seen through a .pth file. Python doesn't read the .pth files
    that lie beyond one, so the editable install there stays out of sight.
    """
    environment = tmp_path_factory.mktemp("environment")
    venv.create(environment, symlinks=True)
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        environment / "bin/python",
        "install",
        "--no-deps",
        wheel,
        cwd=wheel.parent,
    )
    [packages] = environment.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return packages


@pytest.fixture
def python(site: Path) -> Path:
    return site.parents[2] / "bin" / "python"


def files_below(*folders: str) -> set[str]:
    listed = subprocess.check_output(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *folders], cwd=REPOSITORY, text=True
    )
    return {name for name in listed.split("\0") if name and (REPOSITORY / name).exists()}


def test_the_wheel_holds_what_it_should_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    moved = {"conf": "dscoder_exp/conf", "examples": "dscoder_exp/examples", "launchers/hydra_plugins": "hydra_plugins"}
    moved["launchers/msrun_launcher"] = "msrun_launcher"
    expected = files_below("dscoder_exp")
    for folder, target in moved.items():
        found = files_below(folder)
        assert found
        expected |= {target + name.removeprefix(folder) for name in found}
    assert names == expected
    assert {"dscoder_exp/conf/config.yaml", "hydra_plugins/msrun_launcher/py.typed"} <= names
    assert "hydra_plugins/__init__.py" not in names  # other plugins share the namespace


def test_the_metadata_names_licence_and_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        [metadata, scripts, licence] = (
            archive.read(next(name for name in archive.namelist() if name.endswith(f".dist-info/{end}"))).decode()
            for end in ("METADATA", "entry_points.txt", "licenses/LICENSE")
        )
    headers = Parser().parsestr(metadata)
    assert (headers["License-Expression"], headers["License-File"]) == ("Apache-2.0", "LICENSE")
    assert headers["Requires-Python"] == "<3.12,>=3.11"
    assert "numpy<2,>=1.26" in headers.get_all("Requires-Dist", [])
    assert "dscoder_exp = dscoder_exp.__main__:start" in scripts
    assert "Apache License" in licence


def test_its_own_code_and_plugin_are_what_runs(site: Path, python: Path, tmp_path: Path) -> None:
    ask = "import dscoder_exp.app as a, hydra_plugins.msrun_launcher as m; print(a.__file__, m.__file__, sep='\\n')"
    assert all(Path(line).is_relative_to(site) for line in run(python, "-c", ask, cwd=tmp_path).splitlines())
    assert "MsrunLauncher" in run(python, "-m", "dscoder_exp", "--info", "plugins", cwd=tmp_path)


def test_its_own_conf_is_composed(site: Path, python: Path, tmp_path: Path) -> None:
    root = site / "dscoder_exp" / "conf" / "config.yaml"
    marked = root.read_text().replace("seed: 0", "seed: 4711")
    root.write_text(marked)
    composed = run(python, "-m", "dscoder_exp", "+experiment=finetune_8k", "--cfg", "job", cwd=tmp_path)
    assert "seed: 4711\n" in composed
    assert f"file://{root.parent}" in run(python, "-m", "dscoder_exp", "--info", "searchpath", cwd=tmp_path)


def test_its_own_sample_is_prepared(python: Path, tmp_path: Path) -> None:
    command = ["+experiment=tiny", "task=prepare", "tracking=off", "data.output=prepared"]
    run(python.with_name("dscoder_exp"), *command, cwd=tmp_path)
    assert (tmp_path / "prepared" / "data.json").is_file()
