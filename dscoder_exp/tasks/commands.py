"""Commands that a task names for what comes next. They work where the task was started, pasted into a shell."""

import os
import shlex
import shutil
import sys
from pathlib import Path

PROMPT = "write a quick sort algorithm."


def predict_command(*model: str, prompt: str = PROMPT) -> str:
    """Ask a model, which the overrides `model` name."""
    overrides = ["task=predict", *model, f"predict.prompt={prompt}"]
    return f"{_program('python')} -m dscoder_exp {shlex.join(overrides)}"


def ui_command(uri: str) -> str:
    """Show an MLflow store's runs; of a server its address."""
    return uri if uri.startswith("http") else f"{_program('mlflow')} ui --backend-store-uri {shlex.quote(uri)}"


def _program(name: str) -> str:
    """A program of this Python's environment: its name where the environment is activated, else its path.

    make runs .venv/bin/python without activating the environment, and a shell's `python` is then another one.
    """
    script, here = Path(sys.executable).with_name(name), Path.cwd()
    active = os.environ.get("VIRTUAL_ENV") == sys.prefix
    if active or not script.exists() or (sys.prefix == sys.base_prefix and shutil.which(name) == str(script)):
        return name
    return shlex.quote(str(script.relative_to(here) if script.is_relative_to(here) else script))
