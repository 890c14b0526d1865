"""Download from the Hugging Face Hub into huggingface_hub's cache only the files that a config key needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dscoder_exp.hub.address import (
    SCHEME,
    cached,
    is_pinned,
    metadata_files,
    parse,
    weight_files,
    with_commit,
)
from dscoder_exp.hub.errors import to_refused
from dscoder_exp.schema.errors import Refused, refuse
from dscoder_exp.storage.disk_space import shortage
from dscoder_exp.storage.file_names import (
    CHECKPOINT_FILE,
    CONFIG_FILE,
    TOKENIZER_FILE,
    WEIGHT_FILES,
    gguf_parts,
)

if TYPE_CHECKING:
    from huggingface_hub import HfUri


def download(address: str, key: str, validate: Callable[[Path], object] = lambda directory: None) -> str:
    """Download what the key needs into huggingface_hub's cache, with its progress bars on stderr.

    Args:
        address: hf:// address; its revision may be a branch, a tag or a commit, or be absent.
        key: one of KEYS; error messages name it.
        validate: called with the local directory before the weights are downloaded; may raise Refused.

    Returns:
        The address pinned to the commit that the revision names, as `snapshot` takes it.

    Raises:
        Refused: the address is malformed; repository, revision or file don't exist or need a token; the repository
            holds no supported format; the hub can't be reached; HF_HUB_OFFLINE is set and the cache lacks files; the
            disk is too small.
    """
    from huggingface_hub import constants

    uri = parse(address, key)
    if is_pinned(uri) and cached(uri, key) is not None:  # a commit never changes
        return with_commit(uri, str(uri.revision))
    if constants.is_offline_mode():
        return with_commit(uri, _offline_commit(uri, key))
    try:
        return with_commit(uri, _fetch(uri, key, validate))
    except Refused:
        raise
    except Exception as error:  # HTTP errors, disk errors, and whatever the hub's other storage (xet) raises
        raise to_refused(error, uri, key) from error


def _offline_commit(uri: HfUri, key: str) -> str:
    from huggingface_hub import constants, resolve_revision
    from huggingface_hub.errors import RevisionResolutionError

    try:
        commit = resolve_revision(uri.id, revision=uri.revision, local_files_only=True).resolved
    except RevisionResolutionError:
        commit = None
    if commit is None or cached(replace(uri, revision=commit), key) is None:
        revision = f"@{uri.revision}" if uri.revision else ""
        what = f"HF_HUB_OFFLINE is set, and {uri.id}{revision} is missing or incomplete in {constants.HF_HUB_CACHE}"
        raise refuse(key, what, "unset HF_HUB_OFFLINE, or name the cache that holds it: HF_HUB_CACHE=DIR")
    return commit


def _fetch(uri: HfUri, key: str, validate: Callable[[Path], object]) -> str:
    """Download the missing files; return the commit hash."""
    from huggingface_hub import HfApi, constants, hf_hub_download, resolve_revision

    timeout = constants.HF_HUB_ETAG_TIMEOUT  # model_info has no timeout by default
    info = HfApi().model_info(uri.id, revision=uri.revision, timeout=timeout, files_metadata=True)
    commit = resolve_revision(uri.id, revision=uri.revision).resolved  # recorded in the cache, for HF_HUB_OFFLINE
    if cached(replace(uri, revision=commit), key) is not None:
        return commit
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
    _refuse_unusable(sizes, uri, key)
    weights = gguf_parts(uri.path_in_repo)
    if not uri.path_in_repo:
        directory = _fetch_small(uri, commit, metadata_files(uri, key))
        if key == "tokenizer.path":
            return commit
        validate(directory)
        weights = weight_files(sizes, directory)
    _refuse_full_disk(uri, commit, {name: sizes.get(name, 0) for name in weights}, key)
    for name in weights:  # one by one: Ctrl-C would wait for snapshot_download's threads
        hf_hub_download(uri.id, name, revision=commit)
    return commit


def _fetch_small(uri: HfUri, commit: str, names: list[str]) -> Path:
    """Download those of `names` that exist, and cache the list of all files of the commit. Return the directory."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import tqdm

    class Hidden(tqdm):
        """Disabled: the progress bar of many small files is never closed, so it would be drawn again at exit."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs | {"disable": True})

    return Path(snapshot_download(uri.id, revision=commit, allow_patterns=names, tqdm_class=Hidden))


def _refuse_unusable(names: Mapping[str, int], uri: HfUri, key: str) -> None:
    """Raise Refused, before any download, if the file list shows that the key can't use the repository."""
    repository = f"{SCHEME}{uri.id}"
    ggufs = [name for name in names if name.endswith(".gguf")]
    another = f"{key}={repository}/{ggufs[0]}" if ggufs else "give a repository with config.json and model.safetensors"
    if uri.path_in_repo:
        if missing := [name for name in gguf_parts(uri.path_in_repo) if name not in names]:
            raise refuse(key, f"{repository} holds no {missing[0]}", another)
    elif key == "tokenizer.path":
        if TOKENIZER_FILE not in names:
            raise refuse(key, f"{repository} holds no {TOKENIZER_FILE}", f"give a repository with {TOKENIZER_FILE}")
    elif CHECKPOINT_FILE not in names:
        if CONFIG_FILE not in names:
            raise refuse(key, f"{repository} holds no model: neither {CONFIG_FILE} nor {CHECKPOINT_FILE}", another)
        if not any(name in names for pair in WEIGHT_FILES for name in pair):
            raise refuse(key, f"{repository} holds neither safetensors nor pytorch_model.bin", another)


def _refuse_full_disk(uri: HfUri, commit: str, sizes: Mapping[str, int], key: str) -> None:
    from huggingface_hub import constants, try_to_load_from_cache

    places = {name: try_to_load_from_cache(uri.id, name, revision=commit) for name in sizes}
    missing = sum(sizes[name] for name, place in places.items() if not isinstance(place, str))
    if (what := shortage(Path(constants.HF_HUB_CACHE), missing, "downloaded")) is not None:
        raise refuse(key, f"{uri.id}: {what}", "make room, or put the cache on another disk: HF_HOME=DIR")
