"""exporter.source.licences: the table against open_clip's own list, what a licence forbids, and cards of any content."""

from __future__ import annotations

import csv
import json
from importlib import resources
from pathlib import Path

import open_clip
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from exporter.source.licences import (
    UNKNOWN,
    License,
    known_licenses,
    license_of_repository,
    license_of_tag,
    repository_of,
)


def cached_card(cache: Path, repository: str, content: bytes | None) -> None:
    """A repository in the layout that huggingface_hub keeps, with this README.md or with none."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True, exist_ok=True)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text("0" * 40)
    (snapshot / "open_clip_config.json").write_text(json.dumps({}))
    if content is not None:
        (snapshot / "README.md").write_bytes(content)


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def test_every_tag_of_open_clip_has_exactly_one_row_and_no_row_is_dangling() -> None:
    lines = resources.files("exporter.source").joinpath("licences.csv").read_text(encoding="utf-8").splitlines()
    rows = [row["repository"] for row in csv.DictReader(lines)]
    assert len(rows) == len(set(rows)) == len(known_licenses())
    wanted = {repository_of(open_clip.get_pretrained_cfg(*pair)) for pair in open_clip.list_pretrained()}
    assert set(rows) == wanted


def test_every_row_has_a_licence_and_the_page_that_states_it() -> None:
    for repository, license in known_licenses().items():
        assert license.id == UNKNOWN or (license.source or "").startswith("https://"), repository
        assert license.permissive == (license.id in ("MIT", "Apache-2.0")), repository


@pytest.mark.parametrize(
    ("architecture", "tag", "name", "permissive"),
    [
        ("ViT-L-14", "openai", "MIT", True),
        ("ViT-L-14", "datacomp_xl_s13b_b90k", "MIT", True),
        ("ViT-L-14", "dfn2b", "Apple-AMLR", False),
        ("ViT-L-14-quickgelu", "dfn2b", "Apple-AMLR", False),
        ("ViT-H-14", "metaclip_altogether", "CC-BY-NC-4.0", False),
        ("ViT-bigG-14-worldwide", "metaclip2_worldwide", "CC-BY-NC-4.0", False),
        ("MobileCLIP2-S0", "dfndr2b", "Apple-AMLR", False),
        ("PE-Core-L-14-336", "meta", "Apache-2.0", True),
        ("ViT-SO400M-16-SigLIP2-512", "webli", "Apache-2.0", True),
        ("ViTamin-S", "datacomp1b", "MIT", True),
        ("nllb-clip-base-siglip", "mrl", "CC-BY-NC-4.0", False),
    ],
)
def test_licences_of_the_families(architecture: str, tag: str, name: str, permissive: bool) -> None:
    license = license_of_tag(architecture, tag)
    assert (license.id, license.permissive) == (name, permissive)
    assert bool(license.notes) == (not permissive)


def test_a_restricted_licence_is_one_line_with_its_name_what_it_forbids_and_its_source() -> None:
    [note] = license_of_tag("ViT-B-16", "dfn2b").notes
    assert note == (
        "licence of the weights: Apple-AMLR (research only, no commercial use), "
        "see https://huggingface.co/apple/DFN2B-CLIP-ViT-B-16"
    )
    assert License(UNKNOWN, None).notes == ("licence of the weights: unknown (what it allows is not known)",)
    assert License("CC-BY-NC-SA-4.0", None).forbids == "no commercial use"
    assert License("GPL-3.0", None).forbids == "not known to allow commercial use"


def test_the_repository_is_that_of_the_weights() -> None:
    assert repository_of({"hf_hub": "timm/resnet50_clip.openai/"}) == "timm/resnet50_clip.openai"
    assert repository_of({"hf_hub": "jienengchen/ViTamin-S/pytorch_model.bin"}) == "jienengchen/ViTamin-S"
    assert repository_of({"url": "https://example.org/weights.pt"}) is None
    assert repository_of({"hf_hub": "timm/resnet50_clip.openai/", "file": "own.pt"}) is None


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize(
    ("metadata", "name"),
    [
        ("license: mit", "MIT"),
        ("license: Apache-2.0\ntags: [clip]", "Apache-2.0"),
        ("license: openrail", "OpenRAIL"),
        ("license: bsd-3-clause-clear", "BSD-3-Clause-Clear"),
        ("license: apple-amlr", "Apple-AMLR"),
        ("license: cc-by-nc-2.0", "cc-by-nc-2.0"),
        ("license: other\nlicense_name: apple-sample-code-license\nlicense_link: LICENSE", "apple-sample-code-license"),
        ("license: other\nlicense_name: Some  Own Licence", "Some-Own-Licence"),
        ("license: other", "other"),
        ("license: [mit, cc-by-nc-4.0]", UNKNOWN),
        ("license: Unknown", UNKNOWN),
        ("license: 2024-01-01", UNKNOWN),
        ('license: "\\e[31mred"', UNKNOWN),
        ("license:", UNKNOWN),
        ("tags: [clip]", UNKNOWN),
        ("license: [", UNKNOWN),
        ("- mit", UNKNOWN),
    ],
)
def test_the_licence_of_a_card(metadata: str, name: str, tmp_path: Path) -> None:
    cached_card(tmp_path, "someone/tiny", f"---\n{metadata}\n---\n# A model\nlicense: mit\n".encode())
    license = license_of_repository("someone/tiny", tmp_path)
    assert (license.id, license.source) == (name, "https://huggingface.co/someone/tiny")
    assert license.permissive == (name in ("MIT", "Apache-2.0", "OpenRAIL", "BSD-3-Clause-Clear"))


@pytest.mark.usefixtures("no_hub")
def test_without_a_card_the_table_speaks_and_else_nobody(tmp_path: Path) -> None:
    for repository in ("someone/tiny", "apple/DFN2B-CLIP-ViT-B-16"):
        cached_card(tmp_path, repository, None)
    assert license_of_repository("someone/tiny", tmp_path).id == UNKNOWN
    assert license_of_repository("apple/DFN2B-CLIP-ViT-B-16", tmp_path).id == "Apple-AMLR"
    cached_card(tmp_path, "apple/DFN2B-CLIP-ViT-B-16", b"no metadata")
    assert license_of_repository("apple/DFN2B-CLIP-ViT-B-16", tmp_path).id == "Apple-AMLR"


@pytest.mark.usefixtures("no_hub")
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=80) | st.text(max_size=80).map(lambda text: text.encode("utf-8", "replace")))
@example(data=b"license: " + b"[" * 2000)
@example(data=b"license: !!python/object/apply:os.getcwd []")
def test_any_card_gives_a_name_that_can_be_printed(data: bytes, tmp_path: Path) -> None:
    cached_card(tmp_path, "someone/tiny", b"---\n" + data + b"\n---\n")
    name = license_of_repository("someone/tiny", tmp_path).id
    assert name.isascii()
    assert name.isprintable()
    assert 0 < len(name) <= 64
