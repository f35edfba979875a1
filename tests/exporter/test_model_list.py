"""exporter.model_list: the published figures, the default tags, suggestions and the table of ``--list``."""

from __future__ import annotations

import open_clip
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.errors import ExportError
from exporter.model_list import choose_default_tag, format_models, list_models, published_figures, suggest, tags_of

# The architectures that a release must cover, in order of size.
ZOO = [
    "ViT-B-32",
    "ViT-B-32-quickgelu",
    "ViT-B-16",
    "ViT-B-16-plus-240",
    "RN50",
    "RN50-quickgelu",
    "RN101",
    "RN101-quickgelu",
    "RN50x4",
    "EVA02-B-16",
    "convnext_base",
    "convnext_base_w",
    "convnext_base_w_320",
    "roberta-ViT-B-32",
    "coca_ViT-B-32",
    "RN50x16",
    "convnext_large_d",
    "convnext_large_d_320",
    "xlm-roberta-base-ViT-B-32",
    "ViT-L-14",
    "ViT-L-14-336",
    "EVA02-L-14",
    "EVA02-L-14-336",
    "RN50x64",
    "coca_ViT-L-14",
    "ViT-H-14",
    "EVA01-g-14",
    "xlm-roberta-large-ViT-H-14",
    "convnext_xxlarge",
    "ViT-g-14",
    "EVA01-g-14-plus",
    "ViT-bigG-14",
    "EVA02-E-14",
    "EVA02-E-14-plus",
]


def test_every_figure_names_a_real_tag_a_plausible_value_and_its_source() -> None:
    known = set(open_clip.list_pretrained())
    for key, figure in published_figures().items():
        assert key in known
        assert 0 < figure.top1 < 90
        assert figure.source.startswith("https://")
        assert figure.measured_as.removesuffix("-quickgelu") == figure.architecture.removesuffix("-quickgelu")


def test_every_zoo_architecture_has_a_default_tag_with_a_figure() -> None:
    rows = {row.architecture: row for row in list_models()}
    assert len(ZOO) == 34
    for name in ZOO:
        assert rows[name].default_tag in rows[name].tags
        assert rows[name].top1 is not None


@pytest.mark.parametrize(
    ("architecture", "tag", "top1"),
    [
        ("ViT-B-32", "datacomp_xl_s13b_b90k", 69.17),
        ("ViT-H-14", "dfn5b", 83.44),
        ("ViT-g-14", "laion2b_s34b_b88k", 78.47),
        ("coca_ViT-L-14", "laion2b_s13b_b90k", 75.61),
        ("RN50", "openai", 59.82),
        ("convnext_base_w_320", "laion_aesthetic_s13b_b82k", 71.67),
        ("MobileCLIP-B", "datacompdr_lt", 77.2),
    ],
)
def test_the_default_tag_is_the_best_published_one(architecture: str, tag: str, top1: float) -> None:
    default = choose_default_tag(architecture, tags_of(architecture))
    assert default is not None
    assert (default.tag, default.top1) == (tag, top1)
    assert f"{top1:.1f} %" in default.reason


def test_a_figure_belongs_to_the_activation_that_the_tag_was_trained_with() -> None:
    figures = published_figures()
    plain, quick = figures["ViT-B-32", "laion400m_e32"], figures["ViT-B-32-quickgelu", "laion400m_e32"]
    assert plain.top1 == quick.top1 == 62.93
    assert plain.measured_as == "ViT-B-32-quickgelu"


def test_no_figure_means_the_last_tag_and_the_reason_says_so() -> None:
    default = choose_default_tag("unpublished", ["first", "second"])
    assert default is not None
    assert (default.tag, default.top1) == ("second", None)
    assert "no zero-shot ImageNet figure" in default.reason
    assert choose_default_tag("unpublished", []) is None


def test_tags_without_a_figure_are_counted_in_the_reason() -> None:
    default = choose_default_tag("nllb-clip-base-siglip", tags_of("nllb-clip-base-siglip"))
    assert default is not None
    assert default.tag == "v1"
    assert "1 of them without a figure" in default.reason


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
    assert lines[1].split()[:5] == ["RN50", "224", "1024", "openai", "59.8"]


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
def test_the_choice_is_the_maximum_of_any_set_of_tags(tags: list[str]) -> None:
    figures = published_figures()
    default = choose_default_tag("ViT-B-32", tags)
    assert default is not None
    assert default.top1 == max(figures["ViT-B-32", tag].top1 for tag in tags)
