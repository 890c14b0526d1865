"""The chat template that lies with a model: found, read, and written beside a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dscoder_exp.hub.locate import locate
from dscoder_exp.schema.config import TEMPLATE_FILE, TEMPLATES
from dscoder_exp.schema.errors import refuse
from dscoder_exp.storage.file_names import CHAT_TEMPLATE_FILE, TOKENIZER_CONFIG_FILE
from dscoder_exp.storage.json_files import read_json


@dataclass(frozen=True)
class ModelTemplate:
    """A prompt format, before it is compiled.

    Attributes:
        name: of one of our formats, else what lies there ("chat_template", or a file's name).
        source: its Jinja2 source; None: our format of this name.
        origin: the file or config key that it comes from.
    """

    name: str
    source: str | None
    origin: str


def given_template(value: str, key: str) -> ModelTemplate:
    """The template that a config key names: one of our formats, or a file.

    Raises:
        Refused: there is no such file, or it can't be read.
    """
    if not value.endswith(TEMPLATE_FILE):
        return ModelTemplate(value, None, key)
    file = locate(value, key)
    return ModelTemplate(file.name, _read(file, key), str(file))


def template_in(directory: Path, key: str) -> ModelTemplate | None:
    """The template of a model's directory: chat_template.jinja, else tokenizer_config.json's, as transformers reads it.

    Args:
        key: the config key that held the directory.

    Raises:
        Refused: a file that can't be read, or whose chat_template is no text, nor a list with a default.
    """
    file = directory / CHAT_TEMPLATE_FILE
    if file.is_file():
        return ModelTemplate("chat_template", _read(file, key), str(file))
    file = directory / TOKENIZER_CONFIG_FILE
    template: Any = read_json(file, key).get("chat_template") if file.is_file() else None
    if isinstance(template, list):  # several named templates
        named = {item.get("name"): item.get("template") for item in template if isinstance(item, dict)}
        template = named.get("default")
        if template is None and named:
            what = f"none of the chat templates is named default, but {', '.join(map(str, named))}"
            raise refuse(str(file), what, f"name one default, or save it as {file.with_name(CHAT_TEMPLATE_FILE)}")
    if template is None:
        return None
    if not isinstance(template, str):
        raise refuse(str(file), "chat_template is neither text nor a list of named templates", "fix the file")
    return ModelTemplate("chat_template", template, str(file))


def recorded_template(directory: Path, name: str | None, key: str) -> ModelTemplate | None:
    """The template of a checkpoint or adapter, whose record says that it has the format `name`.

    The file beside the record counts; records without one are of releases that wrote none for our own formats.
    """
    if (found := template_in(directory, key)) is not None:
        return ModelTemplate(name if name in TEMPLATES else found.name, found.source, found.origin)
    return None if name not in TEMPLATES else ModelTemplate(name, None, str(directory))


def write_template(directory: Path, template: ModelTemplate | None) -> None:
    """Write chat_template.jinja, which transformers and vLLM read, into a checkpoint's directory."""
    if template is not None and template.source is not None:
        (directory / CHAT_TEMPLATE_FILE).write_text(template.source, encoding="utf-8")


def _read(file: Path, key: str) -> str:
    try:
        return file.read_text("utf-8")
    except OSError as error:
        raise refuse(key, f"cannot be read: {file} ({error.strerror})", f"give {key} a {TEMPLATE_FILE} file") from None
    except UnicodeDecodeError as error:
        raise refuse(str(file), f"not UTF-8: {error.reason}", "save the file as UTF-8") from None
