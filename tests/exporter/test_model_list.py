"""exporter.source.model_list: the published figures, the default tags, suggestions and the table of ``--list``."""

from __future__ import annotations

import re

import open_clip
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.workloads.architectures import CLASSIC
from exporter.errors import ExportError
from exporter.source.licences import license_of_tag
from exporter.source.model_list import (
    choose_default_tag,
    format_models,
    list_models,
    published_figures,
    suggest,
    tags_of,
    without_default,
)


def test_every_figure_names_a_real_tag_a_plausible_value_and_its_source() -> None:
    known = set(open_clip.list_pretrained())
    for key, figure in published_figures().items():
        assert key in known
        assert 0 < figure.top1 < 90
        assert figure.source.startswith("https://")
        assert figure.measured_as.removesuffix("-quickgelu") == figure.architecture.removesuffix("-quickgelu")


def test_every_zoo_architecture_has_a_default_tag_with_a_figure() -> None:
    rows = {row.architecture: row for row in list_models()}
    assert len(CLASSIC) == 34
    for name in CLASSIC:
        assert rows[name].default_tag in rows[name].tags
        assert rows[name].top1 is not None


@pytest.mark.parametrize(
    ("architecture", "tag", "top1"),
    [
        ("ViT-B-32", "datacomp_xl_s13b_b90k", 69.17),
        ("ViT-L-14", "datacomp_xl_s13b_b90k", 79.21),
        ("ViT-H-14", "laion2b_s32b_b79k", 77.96),
        ("ViT-g-14", "laion2b_s34b_b88k", 78.47),
        ("coca_ViT-L-14", "laion2b_s13b_b90k", 75.61),
        ("RN50", "openai", 59.82),
        ("convnext_base_w_320", "laion_aesthetic_s13b_b82k", 71.67),
    ],
)
def test_the_default_tag_is_the_best_published_one_with_a_permissive_licence(
    architecture: str, tag: str, top1: float
) -> None:
    default = choose_default_tag(architecture, tags_of(architecture))
    assert default is not None
    assert (default.tag, default.top1) == (tag, top1)
    assert f"{top1:.1f} %" in default.reason


def test_a_figure_belongs_to_the_activation_that_the_tag_was_trained_with() -> None:
    figures = published_figures()
    plain, quick = figures["ViT-B-32", "laion400m_e32"], figures["ViT-B-32-quickgelu", "laion400m_e32"]
    assert plain.top1 == quick.top1 == 62.93
    assert plain.measured_as == "ViT-B-32-quickgelu"


@pytest.mark.parametrize("architecture", open_clip.list_models())
def test_every_default_is_permissive_and_none_that_is_permissive_has_a_better_figure(architecture: str) -> None:
    tags, figures = tags_of(architecture), published_figures()
    free = [tag for tag in tags if license_of_tag(architecture, tag).permissive]
    default = choose_default_tag(architecture, tags)
    if default is None:
        assert not free
        return
    assert default.tag in free
    assert default.license == license_of_tag(architecture, default.tag)
    known = [figures[architecture, tag].top1 for tag in free if (architecture, tag) in figures]
    assert default.top1 == max(known, default=None)


def test_the_architectures_without_a_permissive_tag_are_those_that_the_readme_names() -> None:
    rows = [row for row in list_models() if row.tags and row.default_tag is None]
    assert {
        row.architecture for row in rows if not re.match(r"MobileCLIP2?-|nllb-clip|.*-worldwide", row.architecture)
    } == {
        "ViT-H-14-378",
        "ViT-H-14-378-quickgelu",
        "ViT-H-14-quickgelu",
        "ViT-bigG-14-quickgelu",
    }
    assert len(rows) == 22


def test_a_better_restricted_tag_is_named_in_the_reason_with_what_it_forbids() -> None:
    default = choose_default_tag("ViT-L-14", tags_of("ViT-L-14"))
    assert default is not None
    assert default.reason.startswith(
        "MIT; ImageNet zero-shot 79.2 %, best published of 8 tags with a permissive licence; "
    )
    assert "dfn2b_s39b would be 82.2 %, under Apple-AMLR (research only, no commercial use)" in default.reason
    free = choose_default_tag("ViT-B-32", tags_of("ViT-B-32"))
    assert free is not None
    assert "would be" not in free.reason  # the restricted tags of ViT-B-32 are worse


def test_no_figure_means_the_last_permissive_tag_and_the_reason_says_so() -> None:
    default = choose_default_tag("ViTamin-XL-384", ["datacomp1b"])
    assert default is not None
    assert (default.tag, default.top1) == ("datacomp1b", None)
    assert "its only tag; no zero-shot ImageNet figure is published for it" in default.reason
    assert choose_default_tag("ViTamin-XL-384", []) is None


def test_a_tag_whose_licence_is_not_known_is_no_default() -> None:
    assert not license_of_tag("unpublished", "first").permissive
    assert choose_default_tag("unpublished", ["first", "second"]) is None
    assert "unknown (what it allows is not known): first, second" in without_default("unpublished", ["first", "second"])


def test_an_architecture_without_a_permissive_tag_names_its_tags_and_their_licences() -> None:
    assert choose_default_tag("ViT-H-14-quickgelu", tags_of("ViT-H-14-quickgelu")) is None
    sentence = without_default("ViT-H-14-quickgelu", tags_of("ViT-H-14-quickgelu"))
    for part in ("CC-BY-NC-4.0 (no commercial use): metaclip_fullcc", "Apple-ASCL", "dfn5b", "--pretrained TAG"):
        assert part in sentence
    assert "has no pretrained weights for convnext_tiny" in without_default("convnext_tiny", ())


def test_list_models_matches_patterns_and_parts_of_names_in_any_case() -> None:
    assert len(list_models()) == len(open_clip.list_models())
    assert {row.architecture for row in list_models("vit-h-14-clipa*")} == {"ViT-H-14-CLIPA", "ViT-H-14-CLIPA-336"}
    assert "coca_ViT-B-32" in {row.architecture for row in list_models("VIT-B-32")}
    row = next(row for row in list_models("ViT-L-14-336") if row.architecture == "ViT-L-14-336")
    assert (row.image_size, row.embed_dim, row.tags) == ((336, 336), 768, ("openai",))
    with pytest.raises(ExportError, match="RN50x4"):
        list_models("RN50x5")


def test_the_table_has_a_line_for_each_architecture() -> None:
    rows = list_models("RN50*")
    lines = format_models(rows).splitlines()
    assert len(lines) == len(rows) + 1
    assert lines[1].split()[:6] == ["RN50", "224", "1024", "openai", "MIT", "59.8"]


def test_the_table_puts_every_tag_behind_its_licence() -> None:
    row = next(row for row in list_models("ViT-L-14") if row.architecture == "ViT-L-14")
    line = format_models([row]).splitlines()[1]
    assert line.split()[3:5] == ["datacomp_xl_s13b_b90k", "MIT"]
    assert line.endswith("CC-BY-NC-4.0: metaclip_400m, metaclip_fullcc; Apple-AMLR: dfn2b, dfn2b_s39b")
    assert all(tag in line for tag in row.tags)
    # Other tests register shallow architectures, whose names hold this one.
    restricted = next(row for row in list_models("MobileCLIP-B") if row.architecture == "MobileCLIP-B")
    assert format_models([restricted]).split()[-9:] == [
        "MobileCLIP-B", "224", "512", "-", "-", "-", "Apple-AMLR:", "datacompdr,", "datacompdr_lt",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("ViT-B/32", "ViT-B-32"),
        ("vit-b-32", "ViT-B-32"),
        ("ViT-L/14@336px", "ViT-L-14-336"),
        ("ViT_L_14", "ViT-L-14"),
        ("ViT-B-33", "ViT-B-32"),
    ],
)
def test_suggestions_see_through_case_and_openai_spelling(typed: str, meant: str) -> None:
    assert meant in suggest(typed, open_clip.list_models())


def test_nothing_near_gives_no_suggestion() -> None:
    assert suggest("zzzzzzzzzzzz", open_clip.list_models()) == ""


@given(st.text(max_size=40))
def test_suggestions_take_any_text(name: str) -> None:
    names = ["ViT-B-32", "RN50", "coca_ViT-L-14"]
    answer = suggest(name, names)
    assert answer == "" or answer.startswith(" (did you mean ")


@given(st.lists(st.sampled_from(tags_of("ViT-B-32")), min_size=1, unique=True))
def test_the_choice_is_the_maximum_of_the_permissive_ones_in_any_set_of_tags(tags: list[str]) -> None:
    figures = published_figures()
    default = choose_default_tag("ViT-B-32", tags)
    free = [tag for tag in tags if license_of_tag("ViT-B-32", tag).permissive]
    assert (default is None) == (not free)
    if default is not None:
        assert default.top1 == max(figures["ViT-B-32", tag].top1 for tag in free)
