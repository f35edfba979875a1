"""The Hugging Face hub from here: whether it answers, and whether a token is set."""

from __future__ import annotations

import os

import msgspec

from engines.hub.client import endpoint_problem, unreadable_endpoint
from engines.process.optional import broken, import_or_reason
from exporter.requirements import INSTALL

_SECONDS = 3.0
UNREACHABLE = (
    "it cannot be reached: check network and proxy, name a mirror in HF_ENDPOINT, or copy the cache of a machine that has the "
    "weights (HF_HOME)"
)


class HubFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The hub.

    Attributes:
        endpoint: its address, as ``HF_ENDPOINT`` sets it; empty where the client library cannot be used.
        reachable: whether it answers.
        token: whether a token is set, in ``HF_TOKEN`` or by a login; its text is not read into the report.
        problem: the reason why it is not reachable, with the remedy; None: it answers.
    """

    endpoint: str
    reachable: bool
    token: bool
    problem: str | None


def hub_facts() -> HubFacts:
    """Send one request, and wait three seconds at most; with ``HF_HUB_OFFLINE`` nothing is sent."""
    if (unreadable := unreadable_endpoint()) is not None:
        return HubFacts(endpoint=os.environ["HF_ENDPOINT"], reachable=False, token=False, problem=unreadable)
    library = import_or_reason("huggingface_hub", "huggingface_hub", INSTALL)
    if isinstance(library, str):
        return HubFacts(endpoint="", reachable=False, token=False, problem=library)
    try:
        from huggingface_hub import constants, get_token

        from exporter.source.hub import hub_answers

        endpoint, token = str(constants.ENDPOINT), bool(get_token())
        if constants.HF_HUB_OFFLINE:
            problem: str | None = "HF_HUB_OFFLINE is set: only the local cache is used"
        else:
            problem = endpoint_problem()
            if problem is None and not hub_answers(_SECONDS):
                problem = UNREACHABLE
    except Exception as error:  # noqa: BLE001 - whatever a broken library raises
        return HubFacts(endpoint="", reachable=False, token=False, problem=broken("huggingface_hub", error, INSTALL))
    return HubFacts(endpoint=endpoint, reachable=problem is None, token=token, problem=problem)
