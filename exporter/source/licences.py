"""The licences of weights: which weights a product may use, with the page that states each licence.

``licences.csv`` has one row for each repository of the Hugging Face hub from which open_clip downloads weights. The licence is
that of the weights, not of any code beside them, as their authors state it, or else as the repository's card states it. `source`
is the page with the statement. Weights without a row have the licence `UNKNOWN`, which counts as restricted, because its terms are
not known.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

from exporter.errors import ExportError
from exporter.source.hub import hub_access

UNKNOWN = "unknown"
# Licences that allow commercial use and changed copies. OpenRAIL-M also lists uses that it forbids for every user.
_PERMISSIVE = (
    "MIT",
    "Apache-2.0",
    "BSD",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSD-3-Clause-Clear",
    "0BSD",
    "ISC",
    "Unlicense",
    "CC0-1.0",
    "CC-BY-2.0",
    "CC-BY-2.5",
    "CC-BY-3.0",
    "CC-BY-4.0",
    "OpenRAIL",
    "OpenRAIL-M",
    "OpenRAIL++",
    "CreativeML-OpenRAIL-M",
    "BigScience-OpenRAIL-M",
    "BigCode-OpenRAIL-M",
)
_RESTRICTED = ("Apple-AMLR", "Apple-ASCL", "CC-BY-NC-4.0", "CC-BY-NC-ND-4.0", "CC-BY-NC-SA-4.0")
_SPELLING = {name.lower(): name for name in (*_PERMISSIVE, *_RESTRICTED)}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]{0,63}")


@dataclass(frozen=True)
class License:
    """The licence of weights."""

    id: str  # SPDX's name, or the hub's where SPDX has none (Apple-AMLR), or `UNKNOWN`
    source: str | None  # the page that states it; None without such a page

    @property
    def permissive(self) -> bool:
        """Whether commercial use is allowed; for an unknown licence it is not."""
        return self.id in _PERMISSIVE

    @property
    def forbids(self) -> str:
        """The restriction in a few words; empty for a permissive licence."""
        if self.permissive:
            return ""
        if self.id == UNKNOWN:
            return "what it allows is not known"
        if self.id == "Apple-AMLR":
            return "research only, no commercial use"
        return "no commercial use" if self.id.lower().startswith("cc-by-nc") else "not known to allow commercial use"

    @property
    def terms(self) -> str:
        """The name with its restriction: ``MIT``, or ``Apple-AMLR (research only, no commercial use)``."""
        return self.id if self.permissive else f"{self.id} ({self.forbids})"

    @property
    def notes(self) -> tuple[str, ...]:
        """The line to print where a restricted licence is accepted; nothing for a permissive licence."""
        where = f", see {self.source}" if self.source else ""
        return () if self.permissive else (f"licence of the weights: {self.terms}{where}",)


@lru_cache(maxsize=1)
def known_licenses() -> Mapping[str, License]:
    """All rows of the package's table, by repository (``laion/CLIP-ViT-B-32-laion2B-s34B-b79K``)."""
    lines = resources.files("exporter.source").joinpath("licences.csv").read_text(encoding="utf-8").splitlines()
    return {row["repository"]: License(row["license"], row["source"]) for row in csv.DictReader(lines)}


def repository_of(tag_config: Mapping[str, Any]) -> str | None:
    """The hub's repository from which open_clip takes a tag's weights; None where it takes them from elsewhere.

    Args:
        tag_config: the result of ``open_clip.get_pretrained_cfg``; its ``hf_hub`` is ``org/name/`` or ``org/name/file``.
    """
    parts = str(tag_config.get("hf_hub") or "").split("/")
    return "/".join(parts[:2]) if len(parts) >= 2 and "file" not in tag_config else None


def license_of_tag(architecture: str, tag: str) -> License:
    """The licence of the weights that open_clip downloads for a tag; `UNKNOWN` where the table has no row for them."""
    import open_clip

    repository = repository_of(open_clip.get_pretrained_cfg(architecture, tag))
    return known_licenses().get(repository or "", License(UNKNOWN, None))


def license_of_repository(repository: str, cache_dir: str | os.PathLike[str] | None = None) -> License:
    """The licence in a repository's card; where the card states none, the licence in the table; else `UNKNOWN`.

    Args:
        repository: ``org/name`` on the Hugging Face hub.
        cache_dir: the folder for downloads; None is the client library's own folder.
    """
    from huggingface_hub import hf_hub_download

    page = f"https://huggingface.co/{repository}"
    try:
        with hub_access(f"the card of {repository}", "the licence is then unknown"):
            stated = _stated(
                hf_hub_download(repository, "README.md", cache_dir=None if cache_dir is None else str(cache_dir))
            )
    except ExportError:  # there is no card, or the cache has none on a machine without a network
        stated = None
    return known_licenses().get(repository, License(UNKNOWN, page)) if stated is None else License(stated, page)


def _stated(card: str) -> str | None:
    """The name of the licence in a card's metadata; None if the card states none, several, or text that is not a name."""
    import yaml  # type: ignore[import-untyped]
    from huggingface_hub import metadata_load

    try:
        metadata = metadata_load(card) or {}
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return None
    name = metadata.get("license")
    if name == "other":
        name = metadata.get("license_name", name)
    name = "-".join(name.split()) if isinstance(name, str) else ""
    if not _NAME.fullmatch(name):
        return None
    return UNKNOWN if name.lower() == UNKNOWN else _SPELLING.get(name.lower(), name)
