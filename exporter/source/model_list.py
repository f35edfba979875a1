"""The list of models: open_clip's architectures, their tags, and each architecture's default tag with its published figure.

The default is the best tag that a product may use, which needs a permissive licence (`exporter.source.licences`).

The figures are facts gathered from open_clip's results table and from the authors' own pages; ``default_tags.csv`` names the
source of each row. A figure belongs to the activation with which the tag was trained: where a table has a tag under a plain
and a ``-quickgelu`` name, `measured_as` is the name that was taken.
"""

from __future__ import annotations

import csv
import difflib
import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

from exporter.errors import ExportError
from exporter.source.licences import License, license_of_tag


@dataclass(frozen=True)
class Figure:
    """A published zero-shot ImageNet-1k top-1 accuracy of one tag, in percent."""

    architecture: str
    tag: str
    top1: float
    measured_as: str
    source: str


@dataclass(frozen=True)
class DefaultTag:
    """The tag that is exported where the user names none, with the reason as a sentence."""

    tag: str
    top1: float | None
    license: License
    reason: str


@dataclass(frozen=True)
class ModelRow:
    """One line of ``python -m exporter --list``."""

    architecture: str
    tags: tuple[str, ...]
    licenses: tuple[License, ...]  # the licences of the tags, in the tags' order
    default_tag: str | None  # None, too, where no tag has a permissive licence
    top1: float | None
    image_size: tuple[int, int]
    embed_dim: int


@lru_cache(maxsize=1)
def published_figures() -> dict[tuple[str, str], Figure]:
    """All figures of the package's table, by (architecture, tag)."""
    lines = resources.files("exporter.source").joinpath("default_tags.csv").read_text(encoding="utf-8").splitlines()
    figures = [
        Figure(row["architecture"], row["tag"], float(row["imagenet_top1"]), row["measured_as"], row["source"])
        for row in csv.DictReader(lines)
    ]
    return {(figure.architecture, figure.tag): figure for figure in figures}


def choose_default_tag(architecture: str, tags: Sequence[str]) -> DefaultTag | None:
    """Choose the tag with the best published zero-shot ImageNet top-1 among those with a permissive licence.

    Args:
        architecture: a name of ``open_clip.list_models()``.
        tags: its tags in open_clip's order.

    Returns:
        The tag with the reason; None where no tag has a permissive licence. Of equal figures the later tag wins, because later
        tags are newer; where no permissive tag has a figure, the last of them is taken. The reason also names a restricted tag
        with a better figure.
    """
    figures = published_figures()
    licenses = {tag: license_of_tag(architecture, tag) for tag in tags}
    free = [tag for tag in tags if licenses[tag].permissive]
    if not free:
        return None
    known = [figures[architecture, tag] for tag in free if (architecture, tag) in figures]
    best = max(reversed(known), key=lambda figure: figure.top1, default=None)
    group = f"{len(free)} tags" + (" with a permissive licence" if len(free) < len(tags) else "")
    if len(tags) == 1:
        rank = "its only tag"
    elif len(free) == 1:
        rank = "its only tag with a permissive licence"
    else:
        rank = f"best published of {group}" if best else f"the last of {group}"
        if best and len(known) < len(free):
            rank += f", {len(free) - len(known)} of them without a figure"
    if best is None:
        tag, top1 = free[-1], None
        reason = f"{rank}; no zero-shot ImageNet figure is published for " + ("it" if len(free) == 1 else "them")
    else:
        tag, top1 = best.tag, best.top1
        reason = f"ImageNet zero-shot {best.top1:.1f} %, {rank}"
    restricted = [figures[architecture, tag] for tag in tags if (architecture, tag) in figures and tag not in free]
    better = max(reversed(restricted), key=lambda figure: figure.top1, default=None)
    if better is not None and (top1 is None or better.top1 > top1):
        reason += f"; {better.tag} would be {better.top1:.1f} %, under {licenses[better.tag].terms}"
    return DefaultTag(tag, top1, licenses[tag], f"{licenses[tag].id}; {reason}")


def without_default(architecture: str, tags: Sequence[str]) -> str:
    """Make the sentence for an architecture without a tag that `choose_default_tag` can choose."""
    if not tags:
        return (
            f"open_clip has no pretrained weights for {architecture}; pass a checkpoint file with --pretrained PATH, "
            "or take random weights with --pretrained none"
        )
    groups = "; ".join(f"{terms}: {', '.join(group)}" for terms, group in _by_terms(architecture, tags).items())
    return (
        f"no tag of {architecture} has a licence that is known to allow commercial use ({groups}); "
        "pass --pretrained TAG, which accepts that tag's licence, or a checkpoint file of your own"
    )


def _by_terms(architecture: str, tags: Sequence[str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for tag in tags:
        groups.setdefault(license_of_tag(architecture, tag).terms, []).append(tag)
    return groups


def tags_of(architecture: str) -> tuple[str, ...]:
    """The pretrained tags of an architecture in open_clip's order; empty without such tags."""
    import open_clip

    return tuple(open_clip.list_pretrained_tags_by_model(architecture))


def list_models(pattern: str | None = None) -> list[ModelRow]:
    """Make the rows for ``--list``, in open_clip's order; no model is built, and no network is needed.

    Args:
        pattern: a shell pattern (``ViT-L*``) or a part of a name, in upper or lower case; None lists all.

    Raises:
        ExportError: no architecture matches; the message names the most similar architectures.
    """
    import open_clip

    names: list[str] = open_clip.list_models()
    chosen = [name for name in names if pattern is None or _matches(name, pattern)]
    if not chosen:
        raise ExportError(f"no architecture matches {pattern!r}{suggest(str(pattern), names)}; --list alone names all")
    rows = []
    for name in chosen:
        config = open_clip.get_model_config(name)
        tags = tags_of(name)
        default = choose_default_tag(name, tags)
        size = config["vision_cfg"].get("image_size", 224)
        rows.append(
            ModelRow(
                architecture=name,
                tags=tags,
                licenses=tuple(license_of_tag(name, tag) for tag in tags),
                default_tag=default.tag if default else None,
                top1=default.top1 if default else None,
                image_size=(size, size) if isinstance(size, int) else (size[0], size[1]),
                embed_dim=config["embed_dim"],
            )
        )
    return rows


def format_models(rows: Sequence[ModelRow]) -> str:
    """Format the rows as an aligned table, one architecture on each line, with each tag after its licence."""
    header = ("architecture", "image", "embed", "default tag", "licence", "top-1 %", "other tags")
    lines = [header]
    for row in rows:
        others: dict[str, list[str]] = {}
        default_license = "-"
        for tag, license in zip(row.tags, row.licenses, strict=True):
            if tag == row.default_tag:
                default_license = license.id
            else:
                others.setdefault(license.id, []).append(tag)
        rest = "; ".join(f"{name}: {', '.join(tags)}" for name, tags in others.items())
        top1 = f"{row.top1:.1f}" if row.top1 is not None else "-"
        height, width = row.image_size
        size = str(height) if height == width else f"{height}x{width}"
        lines.append(
            (row.architecture, size, str(row.embed_dim), row.default_tag or "-", default_license, top1, rest or "-")
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(header) - 1)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[-1]]) for line in lines
    )


def suggest(name: str, names: Sequence[str], count: int = 3) -> str:
    """Make the text ``" (did you mean A, B or C?)"`` of the names most similar to `name`; empty where no name is similar.

    Case and OpenAI's spelling (``ViT-B/32``, ``ViT-L/14@336px``) do not count as differences.
    """
    by_key: dict[str, list[str]] = {}
    for candidate in names:
        by_key.setdefault(_spelling(candidate), []).append(candidate)
    key = _spelling(name)
    near = [key] if key in by_key else difflib.get_close_matches(key, list(by_key), n=count, cutoff=0.6)
    similar = [candidate for match in near for candidate in by_key[match]][:count]
    if not similar:
        return ""
    return f" (did you mean {similar[0] if len(similar) == 1 else ', '.join(similar[:-1]) + ' or ' + similar[-1]}?)"


def _spelling(name: str) -> str:
    key = name.strip().lower().replace("/", "-").replace("@", "-").replace("_", "-").replace(" ", "-")
    return key.removesuffix("px")


def _matches(name: str, pattern: str) -> bool:
    low, wanted = name.lower(), pattern.lower()
    return fnmatch.fnmatchcase(low, wanted) or wanted in low
