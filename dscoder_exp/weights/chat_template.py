"""A model's chat template: which of our prompt formats it amounts to, and how a format in a file goes along with it."""

from __future__ import annotations

import shutil
from pathlib import Path

from dscoder_exp.hub.locate import locate
from dscoder_exp.schema.config import TEMPLATE_FILE
from dscoder_exp.storage.file_names import CHAT_TEMPLATE_FILE

MARKS = {"<|im_start|>": "chatml", "### Instruction": "deepseek_coder"}


def recognise(chat_template: str | None) -> str | None:
    """`chatml`, `deepseek_coder`, or None where there is no chat template or an unknown one."""
    for mark, name in MARKS.items():
        if chat_template and mark in chat_template:
            return name
    return None


def recorded(template: str | None) -> str | None:
    """A prompt format as a record names it: one in a file lies beside the record as CHAT_TEMPLATE_FILE."""
    return CHAT_TEMPLATE_FILE if template is not None and template.endswith(TEMPLATE_FILE) else template


def keep(directory: Path, template: str | None) -> None:
    """Copy a prompt format's file, if it has one, into a directory whose record will name it."""
    if template is not None and recorded(template) == CHAT_TEMPLATE_FILE:
        shutil.copyfile(locate(template, "data.template"), directory / CHAT_TEMPLATE_FILE)


def kept(directory: Path, template: str | None) -> str | None:
    """The prompt format that a record in the directory names."""
    return str(directory / CHAT_TEMPLATE_FILE) if template == CHAT_TEMPLATE_FILE else template
