"""Recognise a model's chat template as a known prompt format, and copy a format's .jinja file with the model."""

from __future__ import annotations

import shutil
from pathlib import Path

from dscoder_exp.hub.locate import locate
from dscoder_exp.schema.config import TEMPLATE_FILE
from dscoder_exp.storage.file_names import CHAT_TEMPLATE_FILE

MARKERS = {"<|im_start|>": "chatml", "### Instruction": "deepseek_coder"}


def recognise(chat_template: str | None) -> str | None:
    """`chatml`, `deepseek_coder`, or None if the chat template is unknown or absent."""
    for mark, name in MARKERS.items():
        if chat_template and mark in chat_template:
            return name
    return None


def recorded_name(template: str | None) -> str | None:
    """A prompt format's name in checkpoint.json or adapter.json; that of a .jinja file is CHAT_TEMPLATE_FILE."""
    return CHAT_TEMPLATE_FILE if template is not None and template.endswith(TEMPLATE_FILE) else template


def copy_template(directory: Path, template: str | None) -> None:
    """Copy the prompt format's .jinja file, if it is one, into a checkpoint's directory as CHAT_TEMPLATE_FILE."""
    if template is not None and recorded_name(template) == CHAT_TEMPLATE_FILE:
        shutil.copyfile(locate(template, "data.template"), directory / CHAT_TEMPLATE_FILE)


def template_path(directory: Path, template: str | None) -> str | None:
    """Inverse of `recorded_name`: CHAT_TEMPLATE_FILE becomes its path in the checkpoint's directory."""
    return str(directory / CHAT_TEMPLATE_FILE) if template == CHAT_TEMPLATE_FILE else template
