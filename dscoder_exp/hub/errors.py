"""Errors of huggingface_hub as Refused, with what is wrong and what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dscoder_exp.schema.errors import Refused, refuse

if TYPE_CHECKING:
    from huggingface_hub import HfUri
    from huggingface_hub.errors import HfHubHTTPError

UNAUTHORIZED = 401
ALTERNATIVES = "HF_ENDPOINT=URL of a mirror, or HF_HUB_OFFLINE=1 with what is already in the cache"


def to_refused(error: Exception, uri: HfUri, key: str) -> Refused:
    """The Refused for a failed download."""
    import httpx2  # huggingface_hub's HTTP client
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    if isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # the request's own error says more than the failed look into the cache
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0].rstrip(".") if lines else type(error).__name__
    endpoint = constants.ENDPOINT
    if isinstance(error, HfHubHTTPError):
        return refuse(key, *_http_failure(error, uri, endpoint))
    if isinstance(error, httpx2.ConnectError | httpx2.TimeoutException | httpx2.ProxyError):
        return refuse(key, f"{endpoint} can't be reached: {text}", f"check the network, or {ALTERNATIVES}")
    if isinstance(error, httpx2.TransportError):
        return refuse(key, f"{uri.id}: the connection to {endpoint} broke: {text}", "try again")
    if isinstance(error, OSError) and error.errno is not None:
        what = f"{uri.id}: can't be written to {constants.HF_HUB_CACHE}: {text}"
        return refuse(key, what, "make room, or put the cache elsewhere: HF_HOME=DIR")
    what = f"{uri.id}: the download from {endpoint} failed: {type(error).__name__}: {text}"
    return refuse(key, what, "try again; check HF_ENDPOINT")


def _http_failure(error: HfHubHTTPError, uri: HfUri, endpoint: str) -> tuple[str, str]:
    """What is wrong, and the remedy, for an HTTP error of the hub."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    token = "`hf auth login` or HF_TOKEN=…"
    status = error.response.status_code
    if isinstance(error, GatedRepoError):
        what = f"{uri.id} is gated: only those who accepted its terms may download it"
        return what, f"accept them at {endpoint}/{uri.id}, then {token}"
    if isinstance(error, RevisionNotFoundError):
        what = f"{uri.id} has no revision {uri.revision or 'main'!r}"
        return what, f"hf://{uri.id}@REVISION with a branch, tag or commit of {endpoint}/{uri.id}"
    if isinstance(error, RepositoryNotFoundError) or status == UNAUTHORIZED:  # the hub answers both alike
        what = f"{endpoint} knows no model {uri.id}, or it is private"
        return what, f"check the name at {endpoint}/{uri.id}; for a private model, {token}"
    said = (error.server_message or error.response.reason_phrase).splitlines()
    what = f"{uri.id}: {endpoint} answers {status}{f' ({said[0]})' if said else ''}"
    return what, f"try again later, or {ALTERNATIVES}"
