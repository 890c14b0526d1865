"""Models and tokenizers on the Hugging Face Hub: hf://OWNER/NAME[@REVISION][/FILE.gguf], spelled as the hub spells it.

huggingface_hub resolves and downloads, so its settings apply: HF_HOME, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE. It is
imported inside the functions that need it, because the import takes 0.2 s.
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
    TORCH_INDEX_FILE,
    WEIGHT_FILES,
    gguf_parts,
)

if TYPE_CHECKING:
    from huggingface_hub import HfUri

SCHEME = "hf://"
FORM = "hf://OWNER/NAME or hf://OWNER/NAME@REVISION"
FILE_FORM = "hf://OWNER/NAME[@REVISION]/FILE.gguf"
KEYS = ("model.path", "tokenizer.path", "weights.source")  # config keys that may hold an hf:// address
MODEL_METADATA_FILES = [*BESIDE_WEIGHTS, CONFIG_FILE, CHECKPOINT_FILE, INDEX_FILE, TORCH_INDEX_FILE]


def snapshot(address: str, key: str) -> Path:
    """The cached directory, or .gguf file, of an address that `download` (download.py) returned; makes no request.

    Raises:
        Refused: the address is not, or not completely, in this machine's cache.
        ValueError: the address names no commit.
    """
    from huggingface_hub import constants

    uri = parse(address, key)
    if not is_pinned(uri):
        raise ValueError(f"{address} names no commit: it has to be downloaded first")
    if (found := cached(uri, key)) is None:
        what = f"{address} is missing or incomplete in {constants.HF_HUB_CACHE}"
        raise refuse(key, what, f"hf download {uri.id} --revision {uri.revision}")
    return found


def parse(address: str, key: str) -> HfUri:
    """Parse an hf:// address.

    Raises:
        Refused: the address is malformed, or not that of a model.
    """
    from huggingface_hub import parse_hf_uri
    from huggingface_hub.errors import HfUriError

    forms = FORM if key == "tokenizer.path" else f"{FORM}; of one file, {FILE_FORM}"
    try:
        uri = parse_hf_uri(address)
    except HfUriError as error:
        raise refuse(key, f"{address}: {error.msg.strip()}", forms) from error
    if uri.type != "model":
        raise refuse(key, f"{address}: this is a {uri.type}, not a model", forms)
    if uri.path_in_repo and (key == "tokenizer.path" or not uri.path_in_repo.endswith(".gguf")):
        slash = "; a / in a revision is written %2F" if uri.revision else ""
        raise refuse(key, f"{address}: {uri.path_in_repo} can't be downloaded by itself", f"{forms}{slash}")
    return uri


def is_pinned(uri: HfUri) -> bool:
    """Whether the revision is a full commit hash, whose content never changes."""
    return re.fullmatch("[0-9a-f]{40}", uri.revision or "") is not None


def with_commit(uri: HfUri, commit: str) -> str:
    """The hf:// address of `uri` at this commit."""
    return f"{SCHEME}{uri.id}@{commit}" + (f"/{uri.path_in_repo}" if uri.path_in_repo else "")


def metadata_files(uri: HfUri, key: str) -> list[str]:
    """Patterns of all files that `key` needs except a directory's weights; the index among them names the shards."""
    if uri.path_in_repo:
        return gguf_parts(uri.path_in_repo)
    return list(TOKENIZER_FILES) if key == "tokenizer.path" else MODEL_METADATA_FILES


def weight_files(names: Collection[str] | None, directory: Path) -> list[str]:
    """The weight files that weights/directory.py would read; many repositories hold the same model in several formats.

    Args:
        names: all files of the commit; None: unknown.
        directory: local copy of all files except the weights.
    """
    present = {file.name for file in directory.iterdir()} if names is None else set(names)
    if CHECKPOINT_FILE in present:
        return [name for name in present if re.fullmatch(r"model[^/]*\.safetensors", name)]
    whole, index = next((names for names in WEIGHT_FILES if present.intersection(names)), WEIGHT_FILES[0])
    if whole in present or index not in present:
        return [whole]
    try:
        values = json.loads((directory / index).read_text("utf-8"))["weight_map"].values()
    except (ValueError, KeyError, TypeError, AttributeError):  # reported when the directory is opened
        return []
    shards = {value for value in values if isinstance(value, str)}
    return sorted(shards if names is None else shards & present)


def cached(uri: HfUri, key: str) -> Path | None:
    """The cached directory or .gguf file of a commit; None if a file that `key` needs is missing."""
    from huggingface_hub import get_cached_repo_tree, snapshot_download
    from huggingface_hub.errors import CachedRepoTreeNotFoundError, LocalEntryNotFoundError

    first = metadata_files(uri, key)
    try:
        place = snapshot_download(uri.id, revision=uri.revision, local_files_only=True, allow_patterns=first)
    except LocalEntryNotFoundError:
        return None
    directory = Path(place)
    try:
        names = [file.path for file in get_cached_repo_tree(uri.id, revision=uri.revision)]
    except CachedRepoTreeNotFoundError:  # the cache was filled by another version of huggingface_hub
        names = None
    if uri.path_in_repo:
        needed = first
    else:
        needed = [TOKENIZER_FILE] if key == "tokenizer.path" else weight_files(names, directory)
    return directory / uri.path_in_repo if all((directory / name).is_file() for name in needed) else None
