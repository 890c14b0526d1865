"""Hydra discovers the plugin from any directory, without importing heavy packages."""

import subprocess
import sys
from pathlib import Path

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher

from hydra_plugins.msrun_launcher.msrun_launcher import MsrunLauncher

DISCOVER = """
import sys
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
print([found.__module__ for found in Plugins.instance().discover(Launcher)])
print(sorted({"mindspore", "mlflow", "cloudpickle", "psutil"} & set(sys.modules)))
"""


def test_hydra_discovers_the_launcher() -> None:
    assert MsrunLauncher.__name__ in [found.__name__ for found in Plugins.instance().discover(Launcher)]


def test_discovery_works_in_another_directory_and_imports_nothing_heavy(tmp_path: Path) -> None:
    found, heavy = subprocess.check_output([sys.executable, "-c", DISCOVER], cwd=tmp_path, text=True).splitlines()
    assert "hydra_plugins.msrun_launcher.msrun_launcher" in found
    assert heavy == "[]"
