"""Access to the Hugging Face hub that fails fast: without a network an error comes within seconds, not after retries.

The Hugging Face client retries each request for about half a minute when it cannot connect. One short request to the hub
is made first; if it fails, everything inside the context uses the local cache only.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

from engines.hub.client import endpoint_problem, error_chain
from exporter.errors import DownloadError, ExportError

_PROBE_SECONDS = 5.0
_UNREACHABLE = "the hub cannot be reached and the local cache does not have it"
_NETWORK_ERRORS = frozenset(
    {
        "ConnectError",
        "ConnectionError",
        "ConnectTimeout",
        "LocalEntryNotFoundError",
        "OfflineModeIsEnabled",
        "ReadTimeout",
        "gaierror",
        "timeout",
        "TimeoutError",
        "URLError",
    }
)


@contextlib.contextmanager
def hub_access(what: str, remedy: str) -> Iterator[None]:
    """Run downloads inside the context; translate their failures into a `DownloadError` of one sentence.

    Args:
        what: the name of the downloaded data in the message, such as ``the weights of ViT-B-32 openai``.
        remedy: the user's alternatives, as the end of a sentence.

    Raises:
        DownloadError: there is no network and the data is not in the cache; the repository does not exist or needs a login; no
            space is left.
    """
    from huggingface_hub import constants

    was_offline = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = was_offline or not hub_answers()
    try:
        yield
    except ExportError:
        raise
    except Exception as error:  # any client library may raise; unknown errors keep their traceback
        reason = _reason(error)
        if reason is None:
            raise
        if reason == _UNREACHABLE and was_offline:
            reason = "HF_HUB_OFFLINE is set and the local cache does not have it"
        elif reason == _UNREACHABLE and (problem := endpoint_problem()) is not None:
            raise DownloadError(f"cannot download {what}: {problem}") from error
        raise DownloadError(f"cannot download {what}: {reason}; {remedy}") from error
    finally:
        constants.HF_HUB_OFFLINE = was_offline


@contextlib.contextmanager
def cache_only() -> Iterator[None]:
    """Let everything inside the context use the local cache only; nothing is downloaded, and no request is made."""
    from huggingface_hub import constants

    was_offline = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = was_offline


def cache_lacks(repository: str, name: str, cache_dir: str | os.PathLike[str] | None = None) -> bool:
    """Whether the client's cache neither has a file of a repository, nor knows that there is no such file; no request is made.

    Args:
        repository: ``ORG/NAME``.
        name: the file's path in the repository.
        cache_dir: the folder for downloads; None is the client library's own folder.
    """
    from huggingface_hub import try_to_load_from_cache

    return try_to_load_from_cache(repository, name, cache_dir=None if cache_dir is None else str(cache_dir)) is None


def hub_answers(seconds: float = _PROBE_SECONDS) -> bool:
    """Whether one request reaches the hub; any HTTP answer counts. Proxies and ``HF_ENDPOINT`` are used.

    Args:
        seconds: the longest wait for a connection, and for the answer.
    """
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=seconds)
    except Exception as error:  # noqa: BLE001 - the client's exception types differ between releases of huggingface_hub
        return _reason(error) is None
    return True


def _reason(error: BaseException) -> str | None:
    """The cause of a failed download, for a message; None for other errors."""
    chain = error_chain(error)
    names = {base.__name__ for link in chain for base in type(link).__mro__}
    if any(isinstance(link, OSError) and link.errno == errno.ENOSPC for link in chain):
        return "no space left on the device of the cache (HF_HOME moves it)"
    if "GatedRepoError" in names:
        return "the repository is gated and wants a login (HF_TOKEN)"
    if "RepositoryNotFoundError" in names:
        return "the hub has no such repository, or it is private (HF_TOKEN)"
    if names & _NETWORK_ERRORS:
        return _UNREACHABLE
    if "EntryNotFoundError" in names:
        return "the repository has no such file"
    if "HfHubHTTPError" in names or "HTTPError" in names:
        return " ".join(str(error).split())[:200]
    return None
