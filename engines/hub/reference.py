"""References to bundles on the Hugging Face hub: ``hf:ORG/NAME`` or ``hf:ORG/NAME@REVISION``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeGuard

from engines.errors import InputError

PREFIX = "hf:"
DEFAULT_REVISION = "main"
# The hub's rules: letters, digits and ``-_.``, neither ``--`` nor ``..``, no ``-`` or ``.`` at an end, at most 96 characters.
_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?"
_REPOSITORY = re.compile(f"{_PART}/{_PART}")
_MOST_LETTERS = 96
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*")


@dataclass(frozen=True)
class HubReference:
    """A bundle's place on the hub."""

    repository: str  # ORG/NAME
    revision: str = DEFAULT_REVISION  # a branch, a tag or a commit

    def __str__(self) -> str:
        """The reference as it is written on a command line."""
        pinned = "" if self.revision == DEFAULT_REVISION else f"@{self.revision}"
        return f"{PREFIX}{self.repository}{pinned}"


def is_reference(path: object) -> TypeGuard[str]:
    """Whether a bundle's path is a reference to the hub: a str that begins with ``hf:``."""
    return isinstance(path, str) and path.startswith(PREFIX)


def parse_reference(text: str) -> HubReference:
    """The repository and the revision of ``hf:ORG/NAME[@REVISION]``.

    Raises:
        InputError: the text is no such reference.
    """
    repository, at, revision = text.removeprefix(PREFIX).partition("@")
    if not is_reference(text) or not is_repository(repository) or (at and not is_revision(revision)):
        raise InputError(f"{text!r} names no bundle on the hub: write hf:ORG/NAME or hf:ORG/NAME@REVISION")
    return HubReference(repository, revision or DEFAULT_REVISION)


def is_repository(name: str) -> bool:
    """Whether a text is a repository's name, ``ORG/NAME``, by the hub's rules."""
    return (
        len(name) <= _MOST_LETTERS
        and _REPOSITORY.fullmatch(name) is not None
        and not any(pair in name for pair in ("--", ".."))
        and not name.endswith(".git")
    )


def is_revision(name: str) -> bool:
    """Whether a text can be a branch, a tag or a commit; it then is also a path that stays inside a folder."""
    return _REVISION.fullmatch(name) is not None and ".." not in name
