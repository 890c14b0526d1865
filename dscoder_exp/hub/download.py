"""From the Hugging Face Hub into huggingface_hub's cache: what a config key needs of a repository, and no more."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dscoder_exp.hub.address import (
    SCHEME,
    cached,
    first_files,
    is_pinned,
    parse,
    spelled,
    weight_files,
)
from dscoder_exp.hub.errors import explained
from dscoder_exp.schema.errors import Refused, refuse
from dscoder_exp.storage.disk_space import shortage
from dscoder_exp.storage.file_names import CHECKPOINT_FILE, CONFIG_FILE, INDEX_FILE, TOKENIZER_FILE, WEIGHTS_FILE

if TYPE_CHECKING:
    from huggingface_hub import HfUri


def download(address: str, key: str, vet: Callable[[Path], object] = lambda directory: None) -> str:
    """Brings what the key needs into huggingface_hub's cache, with its progress bars on stderr.

    Args:
        address: its revision may be a branch, a tag, a commit, or left out.
        key: one of KEYS, named in a refusal.
        vet: called with the directory once all but the weights is there; may refuse.

    Returns:
        The address with the commit that was found: what `snapshot` takes.

    Raises:
        Refused: malformed; not there; not to be had without a token; nothing in it that can be read; the hub can't be
            reached; offline and not in the cache; the disk is too small.
    """
    from huggingface_hub import constants

    where = parse(address, key)
    if is_pinned(where) and cached(where, key) is not None:  # a commit never changes
        return spelled(where, str(where.revision))
    if constants.is_offline_mode():
        return spelled(where, _offline_commit(where, key))
    try:
        return spelled(where, _fetch(where, key, vet))
    except Refused:
        raise
    except Exception as error:  # of HTTP, of the disk, and whatever the hub's other storage (xet) raises
        raise explained(error, where, key) from error


def _offline_commit(where: HfUri, key: str) -> str:
    from huggingface_hub import constants, resolve_revision
    from huggingface_hub.errors import RevisionResolutionError

    try:
        commit = resolve_revision(where.id, revision=where.revision, local_files_only=True).resolved
    except RevisionResolutionError:
        commit = None
    if commit is None or cached(replace(where, revision=commit), key) is None:
        revision = f"@{where.revision}" if where.revision else ""
        what = f"HF_HUB_OFFLINE is set, and {where.id}{revision} is not, or not as a whole, in {constants.HF_HUB_CACHE}"
        raise refuse(key, what, "unset HF_HUB_OFFLINE, or name the cache that holds it: HF_HUB_CACHE=DIR")
    return commit


def _fetch(where: HfUri, key: str, vet: Callable[[Path], object]) -> str:
    """Downloads what is missing; returns the commit."""
    from huggingface_hub import HfApi, constants, hf_hub_download, resolve_revision

    timeout = constants.HF_HUB_ETAG_TIMEOUT  # the other calls wait for ever
    info = HfApi().model_info(where.id, revision=where.revision, timeout=timeout, files_metadata=True)
    commit = resolve_revision(where.id, revision=where.revision).resolved  # remembered, for HF_HUB_OFFLINE
    if cached(replace(where, revision=commit), key) is not None:
        return commit
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
    _refuse_unusable(sizes, where, key)
    weights = [where.path_in_repo]
    if not where.path_in_repo:
        directory = _fetch_small(where, commit, first_files(where, key))
        if key == "tokenizer.path":
            return commit
        vet(directory)
        weights = weight_files(sizes, directory)
    _refuse_full_disk(where, commit, {name: sizes.get(name, 0) for name in weights}, key)
    for name in weights:  # snapshot_download takes several at a time, but in threads, which Ctrl-C has to wait for
        hf_hub_download(where.id, name, revision=commit)
    return commit


def _fetch_small(where: HfUri, commit: str, names: list[str]) -> Path:
    """Those of these files that there are; keeps the list of all that the commit has, too. Returns the directory."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import tqdm

    class Hidden(tqdm):
        """The bars of many small files are never closed, and so drawn once more at the program's end."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs | {"disable": True})

    return Path(snapshot_download(where.id, revision=commit, allow_patterns=names, tqdm_class=Hidden))


def _refuse_unusable(names: Mapping[str, int], where: HfUri, key: str) -> None:
    """Before anything is downloaded."""
    repository = f"{SCHEME}{where.id}"
    ggufs = [name for name in names if name.endswith(".gguf")]
    another = f"{key}={repository}/{ggufs[0]}" if ggufs else "give a repository with config.json and model.safetensors"
    if where.path_in_repo:
        if where.path_in_repo not in names:
            raise refuse(key, f"{repository} holds no {where.path_in_repo}", another)
    elif key == "tokenizer.path":
        if TOKENIZER_FILE not in names:
            raise refuse(key, f"{repository} holds no {TOKENIZER_FILE}", "give a repository that does")
    elif CHECKPOINT_FILE not in names:
        if CONFIG_FILE not in names:
            raise refuse(key, f"{repository} holds no model: neither {CONFIG_FILE} nor {CHECKPOINT_FILE}", another)
        if WEIGHTS_FILE not in names and INDEX_FILE not in names:
            torch = any(re.fullmatch(r"pytorch_model[^/]*\.bin", name) for name in names)
            found = "pytorch_model.bin, a pickle, and no safetensors" if torch else "no safetensors"
            raise refuse(key, f"{repository} holds {found}", another)


def _refuse_full_disk(where: HfUri, commit: str, sizes: Mapping[str, int], key: str) -> None:
    from huggingface_hub import constants, try_to_load_from_cache

    places = {name: try_to_load_from_cache(where.id, name, revision=commit) for name in sizes}
    missing = sum(sizes[name] for name, place in places.items() if not isinstance(place, str))
    if (what := shortage(Path(constants.HF_HUB_CACHE), missing, "downloaded")) is not None:
        raise refuse(key, f"{where.id}: {what}", "make room, or put the cache on another disk: HF_HOME=DIR")
