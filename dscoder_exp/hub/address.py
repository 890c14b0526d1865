"""Models and tokenizers on the Hugging Face Hub: hf://OWNER/NAME[@REVISION][/FILE.gguf], spelled as the hub spells it.

huggingface_hub does the work, and its settings hold: HF_HOME, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE. It is imported
where it is needed, for that takes 0.2 s.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from dscoder_exp.schema.errors import refuse
from dscoder_exp.storage.file_names import (
    BESIDE_WEIGHTS,
    CHECKPOINT_FILE,
    CONFIG_FILE,
    INDEX_FILE,
    TOKENIZER_FILE,
    TOKENIZER_FILES,
    WEIGHTS_FILE,
)

if TYPE_CHECKING:
    from huggingface_hub import HfUri

SCHEME = "hf://"
FORM = "hf://OWNER/NAME or hf://OWNER/NAME@REVISION"
FILE_FORM = "hf://OWNER/NAME[@REVISION]/FILE.gguf"
KEYS = ("model.path", "tokenizer.path", "weights.source")  # that may hold an address
FIRST_OF_MODEL = [*BESIDE_WEIGHTS, CONFIG_FILE, CHECKPOINT_FILE, INDEX_FILE]


def snapshot(address: str, key: str) -> Path:
    """The directory, or .gguf file, of an address that `download` (download.py) returned; never asks the network.

    Raises:
        Refused: it isn't in the cache of this machine.
        ValueError: the address names no commit.
    """
    from huggingface_hub import constants

    where = parse(address, key)
    if not is_pinned(where):
        raise ValueError(f"{address} names no commit: it has to be downloaded first")
    if (found := cached(where, key)) is None:
        what = f"{address} is not, or not as a whole, in {constants.HF_HUB_CACHE}"
        raise refuse(key, what, f"hf download {where.id} --revision {where.revision}")
    return found


def parse(address: str, key: str) -> HfUri:
    """Takes an address apart.

    Raises:
        Refused: malformed, or not a model's.
    """
    from huggingface_hub import parse_hf_uri
    from huggingface_hub.errors import HfUriError

    forms = FORM if key == "tokenizer.path" else f"{FORM}; of one file, {FILE_FORM}"
    try:
        where = parse_hf_uri(address)
    except HfUriError as error:
        raise refuse(key, f"{address}: {error.msg.strip()}", forms) from error
    if where.type != "model":
        raise refuse(key, f"{address}: this is a {where.type}, not a model", forms)
    if where.path_in_repo and (key == "tokenizer.path" or not where.path_in_repo.endswith(".gguf")):
        slash = "; a / in a revision is written %2F" if where.revision else ""
        raise refuse(key, f"{address}: {where.path_in_repo} can't be taken out of a repository", f"{forms}{slash}")
    return where


def is_pinned(where: HfUri) -> bool:
    """Whether it names a commit in full, which never changes."""
    return re.fullmatch("[0-9a-f]{40}", where.revision or "") is not None


def spelled(where: HfUri, commit: str) -> str:
    """The address with this commit."""
    return f"{SCHEME}{where.id}@{commit}" + (f"/{where.path_in_repo}" if where.path_in_repo else "")


def first_files(where: HfUri, key: str) -> list[str]:
    """All that is wanted but the weights of a directory, which these files tell."""
    if where.path_in_repo:
        return [where.path_in_repo]
    return list(TOKENIZER_FILES) if key == "tokenizer.path" else FIRST_OF_MODEL


def weight_files(names: Collection[str] | None, directory: Path) -> list[str]:
    """Those that weights/directory.py would read; many a repository holds the same model twice.

    Args:
        names: all files of the commit; None: nobody knows them.
        directory: holds all but the weights.
    """
    present = {file.name for file in directory.iterdir()} if names is None else set(names)
    if CHECKPOINT_FILE in present:
        return [name for name in present if re.fullmatch(r"model[^/]*\.safetensors", name)]
    if WEIGHTS_FILE in present or INDEX_FILE not in present:
        return [WEIGHTS_FILE]
    try:
        values = json.loads((directory / INDEX_FILE).read_text("utf-8"))["weight_map"].values()
    except (ValueError, KeyError, TypeError, AttributeError):  # whoever opens the directory says what is wrong
        return []
    shards = {value for value in values if isinstance(value, str)}
    return sorted(shards if names is None else shards & present)


def cached(where: HfUri, key: str) -> Path | None:
    """What the cache holds of a commit, None where something that the key needs is missing."""
    from huggingface_hub import get_cached_repo_tree, snapshot_download
    from huggingface_hub.errors import CachedRepoTreeNotFoundError, LocalEntryNotFoundError

    first = first_files(where, key)
    try:
        place = snapshot_download(where.id, revision=where.revision, local_files_only=True, allow_patterns=first)
    except LocalEntryNotFoundError:
        return None
    directory = Path(place)
    try:
        names = [file.path for file in get_cached_repo_tree(where.id, revision=where.revision)]
    except CachedRepoTreeNotFoundError:  # another version of the library filled the cache
        names = None
    if where.path_in_repo:
        needed = first
    else:
        needed = [TOKENIZER_FILE] if key == "tokenizer.path" else weight_files(names, directory)
    return directory / where.path_in_repo if all((directory / name).is_file() for name in needed) else None
