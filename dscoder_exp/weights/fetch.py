"""A model's or a tokenizer's files out of the Hugging Face Hub, as far as they can be used."""

from pathlib import Path

from dscoder_exp.hub.download import download
from dscoder_exp.storage.file_names import CONFIG_FILE
from dscoder_exp.weights.formats.hf_config import from_hf, read_json


def fetch(address: str, key: str) -> str:
    """As `download`, whose address it returns; the weights of a model that isn't a Llama are left where they are.

    Raises:
        Refused: as `download` does, or the model is none that could be opened.
    """
    return download(address, key, lambda directory: _check_config(directory / CONFIG_FILE, key))


def _check_config(file: Path, key: str) -> None:
    if file.is_file():  # a native checkpoint has its record
        from_hf(read_json(file, key), str(file))
