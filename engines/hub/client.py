"""The hub's client library, `huggingface_hub`, and its failures in one sentence each.

The library is imported when it is first needed. It reads the environment itself: ``HF_TOKEN`` or the token of ``hf auth login``,
``HF_HOME`` and ``HF_HUB_CACHE``, ``HF_ENDPOINT``, ``HF_HUB_OFFLINE``, proxies. Its exceptions are recognized by the names of their
classes, because these stayed the same while the library moved from one HTTP client to another.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any, cast
from urllib.parse import urlsplit

from engines.errors import EngineError, HubError
from engines.process.optional import error_line, import_or_reason

INSTALL = "pip install 'openclip-engines[hub]'"
LOGIN = "log in with `hf auth login`, or set HF_TOKEN"

# Classes of connections that fail or break: those of the HTTP clients, of the standard library, and of hf_xet.
_NETWORK_ERRORS = frozenset(
    {
        "ChunkedEncodingError",
        "ConnectionError",
        "ContentDecodingError",
        "HfXetError",
        "NetworkError",
        "ProtocolError",
        "ProxyError",
        "RemoteProtocolError",
        "SSLError",
        "Timeout",
        "TimeoutError",
        "TimeoutException",
        "TransportError",
        "XetDownloadError",
        "gaierror",
    }
)


def hub_client() -> ModuleType:
    """The module `huggingface_hub`.

    Raises:
        HubError: it is not installed, or is broken, or ``HF_ENDPOINT`` is no address.
    """
    if (problem := unreadable_endpoint()) is not None:
        raise HubError(problem)
    module: ModuleType | str = ""
    for name in (
        "huggingface_hub.constants",
        "huggingface_hub.utils",
        "huggingface_hub",
    ):  # the package does not import its parts by itself
        module = import_or_reason(name, "huggingface_hub", INSTALL)
        if isinstance(module, str):
            raise HubError(f"the Hugging Face hub cannot be used, because {module}")
    return cast(ModuleType, module)


def is_offline() -> bool:
    """Whether ``HF_HUB_OFFLINE`` forbids requests."""
    return bool(hub_client().constants.HF_HUB_OFFLINE)


def silent_progress() -> type[Any]:
    """A class of progress bars that shows nothing."""
    from tqdm import tqdm

    shown: Any = tqdm

    def start(bar: Any, *args: Any, **options: Any) -> None:
        options.pop("name", None)  # the client's own argument
        shown.__init__(bar, *args, **{**options, "disable": True})

    return type("SilentProgress", (shown,), {"__init__": start})


@contextlib.contextmanager
def progress_on_terminals() -> Iterator[None]:
    """Switch the client's progress bars off inside the context where standard error is no terminal."""
    bars = hub_client().utils
    if sys.stderr is not None and (sys.stderr.isatty() or bars.are_progress_bars_disabled()):
        yield
        return
    bars.disable_progress_bars()
    try:
        yield
    finally:
        bars.enable_progress_bars()


@contextlib.contextmanager
def hub_errors(what: str, revision: str, doing: str = "download") -> Iterator[None]:
    """Turn the client's failures inside the context into a `HubError` of one sentence; other errors pass.

    Args:
        what: the reference or the repository, as a sentence names it.
        revision: its revision.
        doing: the verb, ``download`` or ``push``.
    """
    try:
        yield
    except EngineError:
        raise
    except Exception as error:  # the library raises exceptions of several other libraries
        reason = _reason(error, revision, doing)
        if reason is None:
            raise
        raise HubError(f"cannot {doing} {what}: {reason}") from error


def _reason(error: BaseException, revision: str, doing: str) -> str | None:
    """The cause and its remedy; None for an error that is not the hub's, the network's or the disk's."""
    chain = error_chain(error)
    names = {base.__name__ for link in chain for base in type(link).__mro__}
    statuses = [code for link in chain if (code := getattr(getattr(link, "response", None), "status_code", None))]
    if any(isinstance(link, OSError) and link.errno in (errno.ENOSPC, errno.EDQUOT) for link in chain):
        return "no space is left on the disk: free some, or move the cache with HF_HOME, and run the same command again"
    if "OfflineModeIsEnabled" in names:
        remedy = "unset it, or copy the cache (HF_HOME) of a machine that has this revision"
        return f"HF_HUB_OFFLINE is set, and the cache lacks files of revision {revision}: {remedy}"
    if (problem := endpoint_problem()) is not None:
        return problem
    if "GatedRepoError" in names:
        return f"the repository is gated: ask for access on its page, then {LOGIN}"
    if "RepositoryNotFoundError" in names:
        return f"the hub has no such repository, or it is private: check the name, or {LOGIN}"
    if "RevisionNotFoundError" in names:
        return f"the repository has no revision {revision}: name a branch, a tag or a whole commit of it"
    if "LocalTokenNotFoundError" in names:
        return f"the hub needs a login: {LOGIN}"
    if "EntryNotFoundError" in names and "LocalEntryNotFoundError" not in names:
        return "the repository lacks a file that its manifest names: take another revision, or tell its owner"
    if statuses:
        return _of_status(statuses[0], error, doing)
    if names & _NETWORK_ERRORS or "Consistency check failed" in str(error) or _is_xet(error):
        broke = f"{_host()} cannot be reached, or the connection broke ({error_line(chain[-1])})"
        return f"{broke}: run the same command again, it goes on"
    if "FileMetadataError" in names:
        return f"{_host()} does not answer as the hub does: mend HF_ENDPOINT or the proxy"
    if isinstance(error, OSError) and error.errno is not None:
        place = f" {error.filename}" if error.filename else ""
        return f"the disk refuses{place} ({error.strerror}): mend that, or name another place (--out, or HF_HOME for the cache)"
    return None


def _of_status(status: int, error: BaseException, doing: str) -> str:
    if status == 401:
        return f"the hub refuses the token: {LOGIN}"
    if status == 403:
        needed = "write" if doing == "push" else "read"
        return f"the hub forbids it ({error_line(error)}): take a token with {needed} access to it ({LOGIN})"
    if status == 429:
        return f"the hub refuses more requests for now: wait some minutes, or {LOGIN}"
    if status >= 500:
        return f"{_host()} answers {status}: run the same command again later, it goes on"
    return f"the hub answers {status} ({error_line(error)})"


def endpoint_problem() -> str | None:
    """What is wrong with the hub's address, which ``HF_ENDPOINT`` sets; None: it is an address."""
    address = os.environ.get("HF_ENDPOINT") or str(hub_client().constants.ENDPOINT)
    try:
        parts = urlsplit(address)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, or too large
        good = False
    return None if good and not any(map(str.isspace, address)) else _no_address(address)


def unreadable_endpoint() -> str | None:
    """What is wrong with an ``HF_ENDPOINT`` with which no request can be made, and libraries that use the hub cannot be imported.

    Such a one has a port that is no number or too large, or a bracket without the other: the client library raises ValueError while
    it is imported, so that it is not imported here. None: the address can be taken apart, whether there is a hub or not.
    """
    address = os.environ.get("HF_ENDPOINT", "")
    try:
        _ = urlsplit(address).port
    except ValueError:
        return _no_address(address)
    return None


def _no_address(address: str) -> str:
    return f"HF_ENDPOINT is {address!r}, which is no address: write one that begins with https://, or unset it"


def _host() -> str:
    return str(hub_client().constants.ENDPOINT).split("://")[-1]


def _is_xet(error: BaseException) -> bool:
    """Whether hf_xet raised the error: its extension module raises RuntimeError for whatever its storage answers."""
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_next is None and trace.tb_frame.f_code.co_name in ("xet_get", "_upload_xet_files"):
            return isinstance(error, (RuntimeError, OSError))
        trace = trace.tb_next
    return False


def error_chain(error: BaseException) -> list[BaseException]:
    """The error and its causes, the outermost first: the hub's client wraps what its HTTP library raised."""
    links: list[BaseException] = []
    link: Any = error
    while link is not None and link not in links:
        links.append(link)
        link = link.__cause__ or link.__context__
    return links
