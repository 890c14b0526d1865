"""What huggingface_hub raises, in our words: what is wrong, and what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dscoder_exp.schema.errors import Refused, refuse

if TYPE_CHECKING:
    from huggingface_hub import HfUri
    from huggingface_hub.errors import HfHubHTTPError

UNAUTHORIZED = 401
OTHERWISE = "HF_ENDPOINT=URL of a mirror, or HF_HUB_OFFLINE=1 with what is in the cache already"


def explained(error: Exception, where: HfUri, key: str) -> Refused:
    """The refusal that a failed download is."""
    import httpx2  # huggingface_hub's HTTP client
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    if isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # that it then looked into the cache, in vain, is no news
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0].rstrip(".") if lines else type(error).__name__
    endpoint = constants.ENDPOINT
    if isinstance(error, HfHubHTTPError):
        return refuse(key, *_answer(error, where, endpoint))
    if isinstance(error, httpx2.ConnectError | httpx2.TimeoutException | httpx2.ProxyError):
        return refuse(key, f"{endpoint} can't be reached: {text}", f"look after the network, or {OTHERWISE}")
    if isinstance(error, httpx2.TransportError):
        return refuse(key, f"{where.id}: the connection to {endpoint} broke: {text}", "start again")
    if isinstance(error, OSError) and error.errno is not None:
        what = f"{where.id}: can't be written to {constants.HF_HUB_CACHE}: {text}"
        return refuse(key, what, "make room, or put the cache elsewhere: HF_HOME=DIR")
    what = f"{where.id}: the download from {endpoint} failed: {type(error).__name__}: {text}"
    return refuse(key, what, "start again; is HF_ENDPOINT right?")


def _answer(error: HfHubHTTPError, where: HfUri, endpoint: str) -> tuple[str, str]:
    """What the hub said, and what to do."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    token = "`hf auth login` or HF_TOKEN=…"
    status = error.response.status_code
    if isinstance(error, GatedRepoError):
        what = f"{where.id} is gated: only those who accepted its terms may download it"
        return what, f"accept them at {endpoint}/{where.id}, then {token}"
    if isinstance(error, RevisionNotFoundError):
        what = f"{where.id} has no revision {where.revision or 'main'!r}"
        return what, f"hf://{where.id}@REVISION with a branch, tag or commit of {endpoint}/{where.id}"
    if isinstance(error, RepositoryNotFoundError) or status == UNAUTHORIZED:  # it doesn't tell which
        what = f"{endpoint} knows no model {where.id}, or it is private"
        return what, f"look at {endpoint}/{where.id}; for a private one, {token}"
    said = (error.server_message or error.response.reason_phrase).splitlines()
    what = f"{where.id}: {endpoint} answers {status}{f' ({said[0]})' if said else ''}"
    return what, f"start again later, or {OTHERWISE}"
