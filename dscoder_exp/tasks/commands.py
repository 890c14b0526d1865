"""Shell commands that a task suggests as next steps; they work in the directory in which the task was started."""

import os
import shlex
import shutil
import sys
from pathlib import Path

EXAMPLE_PROMPT = "write a quick sort algorithm."


def predict_command(*model: str, prompt: str = EXAMPLE_PROMPT) -> str:
    """The command that lets a model answer `prompt`; model: overrides that name the model."""
    overrides = ["task=predict", *model, f"predict.prompt={prompt}"]
    return f"{_executable('python')} -m dscoder_exp {shlex.join(overrides)}"


def ui_command(uri: str) -> str:
    """The command that shows an MLflow store's runs in a browser; for a server its address."""
    return uri if uri.startswith("http") else f"{_executable('mlflow')} ui --backend-store-uri {shlex.quote(uri)}"


def _executable(name: str) -> str:
    """A program of this Python's environment: its name if the environment is activated, else its path.

    `make` runs .venv/bin/python without activating the environment; the user's `python` is then another one.
    """
    script, current = Path(sys.executable).with_name(name), Path.cwd()
    active = os.environ.get("VIRTUAL_ENV") == sys.prefix
    if active or not script.exists() or (sys.prefix == sys.base_prefix and shutil.which(name) == str(script)):
        return name
    return shlex.quote(str(script.relative_to(current) if script.is_relative_to(current) else script))
