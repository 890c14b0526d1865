"""Shell commands that a task suggests as next steps; they work in the directory in which the task was started."""

import os
import shlex
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from dscoder_exp.schema.overrides import typed

EXAMPLE_PROMPT = "write a quick sort algorithm."


def predict_command(model: Mapping[str, str], prompt: str = EXAMPLE_PROMPT) -> str:
    """The command that lets a model answer `prompt`; model: the config keys that name the model, and their values."""
    overrides = [typed(key, value) for key, value in {**model, "predict.prompt": prompt}.items()]
    return f"{_executable('python')} -m dscoder_exp {_joined(['task=predict', *overrides])}"


def ui_command(uri: str) -> str:
    """The command that shows an MLflow store's runs in a browser; for a server its address."""
    return uri if uri.startswith("http") else f"{_executable('mlflow')} ui --backend-store-uri {_joined([uri])}"


def _joined(words: Iterable[str]) -> str:
    """The words for a POSIX shell, on one line: control characters, and bytes that are no text, as bash's $'…'."""
    return " ".join(shlex.quote(word) if word.isprintable() else _ansi_quoted(word) for word in words)


def _ansi_quoted(word: str) -> str:
    shown = (char if char.isprintable() and char not in "\\'" else _escaped(char) for char in word)
    return f"$'{''.join(shown)}'"


def _escaped(character: str) -> str:
    return "".join(f"\\{byte:03o}" for byte in os.fsencode(character))


def _executable(name: str) -> str:
    """A program of this Python's environment: its name if the environment is activated, else its path.

    `make` runs .venv/bin/python without activating the environment; the user's `python` is then another one.
    """
    script, current = Path(sys.executable).with_name(name), Path.cwd()
    active = os.environ.get("VIRTUAL_ENV") == sys.prefix
    if active or not script.exists() or (sys.prefix == sys.base_prefix and shutil.which(name) == str(script)):
        return name
    return _joined([str(script.relative_to(current) if script.is_relative_to(current) else script)])
