"""The model card: its figures are the manifest's, its front matter is what the hub's client reads, its code works."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.manifest import Accuracy, Interval, Manifest, Quantization, read_manifest
from exporter.publishing.card import model_card
from exporter.source.licences import known_licenses

NAME = "org/my-clip"


@pytest.fixture(scope="module")
def manifest(demo_bundle: Path) -> Manifest:
    return read_manifest(demo_bundle)


def with_model(manifest: Manifest, **fields: Any) -> Manifest:
    return msgspec.structs.replace(manifest, model=msgspec.structs.replace(manifest.model, **fields))


def metadata(card: str) -> dict[str, Any]:
    """The front matter as the hub's client reads it."""
    from huggingface_hub import ModelCard

    data: dict[str, Any] = ModelCard(card, ignore_metadata_errors=False).data.to_dict()
    return data


def tables(card: str) -> list[list[list[str]]]:
    """The card's tables: rows of cells, checked to have as many cells as the header."""
    found: list[list[list[str]]] = []
    inside = False
    for line in card.splitlines():
        if line.startswith("|"):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            if not inside:
                found.append([])
            found[-1].append(cells)
        inside = line.startswith("|")
    for table in found:
        assert len({len(row) for row in table}) == 1
        assert set(table[1]) == {"---"}
    return found


def test_front_matter(manifest: Manifest) -> None:
    data = metadata(model_card(manifest, NAME))
    assert data["license"] == "mit"
    assert data["library_name"] == "openclip-engines"
    assert data["pipeline_tag"] == "zero-shot-image-classification"
    assert data["tags"] == ["clip", "openclip", "onnx", "fp32", "onnxruntime"]
    assert "base_model" not in data


def test_figures_are_the_manifests(manifest: Manifest) -> None:
    engines, parity = tables(model_card(manifest, NAME))
    assert [row[:3] for row in engines[2:]] == [
        ["onnxruntime", name, f"onnxruntime {manifest.engines[0].target.version}, any device of the library"]
        for name in ("image", "text")
    ]
    row = manifest.parity[0]
    for cells, (name, tower) in zip(parity[2:], row.towers.items(), strict=True):
        figures = [
            f"{tower.min_cosine:.6f}",
            f"{tower.mean_cosine:.6f}",
            f"{tower.max_abs_error:.1e}",
            f"{row.top1_agreement:.1%}",
        ]
        assert cells[:6] == ["onnxruntime", name, *figures]
        assert cells[6:8] == [str(tower.samples), "passed"]


def test_accuracy_and_quantization(manifest: Manifest) -> None:
    figure = {"top1": Interval(value=0.5, low=0.4, high=0.6)}
    change = {"top1": Interval(value=-0.012, low=-0.02, high=0.001)}
    row = Accuracy(
        engine="onnxruntime",
        verified_with="onnxruntime 1",
        dataset="photos|dogs",
        samples=1000,
        classes=10,
        eager=figure,
        figures=figure,
        change=change,
        limit=0.005,
        passed=False,
    )
    quantization = Quantization(dtype="int8", layers=12, share=0.9, calibration="photos", samples=512)
    tower = msgspec.structs.replace(manifest.towers["image"], quantization=quantization, fp32_units={"blocks.0": "big"})
    changed = msgspec.structs.replace(
        manifest, accuracy=(row,), towers={**manifest.towers, "image": tower}, precision="int8"
    )
    card = model_card(changed, NAME)
    cells = tables(card)[2][2]
    assert cells == [
        *("onnxruntime", r"photos\|dogs", "1000", "top1", "50.00%", "50.00%"),
        *("-1.20 (-2.00 to +0.10)", "failed, allowed by the exporter"),
    ]
    assert "- image tower: 90.0% of the products' FLOPs in int8, 12 layers (ranges of 512 samples: photos)." in card
    assert "- image tower: 1 units stay in float32." in card
    assert "int8" in metadata(card)["tags"]


@pytest.mark.parametrize(
    ("license_name", "source", "front", "said"),
    [
        (
            "CC-BY-NC-4.0",
            "https://x.org/l",
            {"license": "cc-by-nc-4.0"},
            r"\*\*.*CC-BY-NC-4\.0: no commercial use\.\*\*",
        ),
        (
            "Apple-AMLR",
            "https://x.org/l",
            {"license": "apple-amlr"},
            r"\*\*.*Apple-AMLR: research only, no commercial use\.\*\*",
        ),
        ("unknown", None, {"license": "unknown"}, r"\*\*The licence of the weights is unknown\*\*"),
        (
            "My-Own_1.0",
            "https://x.org/l",
            {"license": "other", "license_name": "my-own_1.0", "license_link": "https://x.org/l"},
            r"\*\*.*not known to allow commercial use\.\*\*",
        ),
        ("Apache-2.0", None, {"license": "apache-2.0"}, "The weights have the licence Apache-2.0"),
        (None, None, {}, "The bundle states no licence: the weights are the publisher's own"),
    ],
)
def test_licences(
    manifest: Manifest, license_name: str | None, source: str | None, front: dict[str, str], said: str
) -> None:
    card = model_card(with_model(manifest, license=license_name, license_source=source), NAME)
    data = metadata(card)
    assert {key: data[key] for key in data if key.startswith("license")} == front
    section = card.split("## Licence")[1].split("##")[0]
    assert re.search(said, section)
    assert (source in section) if source else ("Source" not in section)


def test_every_licence_of_the_table_has_an_identifier(manifest: Manifest) -> None:
    for terms in set(known_licenses().values()):
        data = metadata(model_card(with_model(manifest, license=terms.id, license_source=terms.source), NAME))
        assert data["license"] == terms.id.lower()


def test_random_weights_and_models_of_the_hub(manifest: Manifest) -> None:
    card = model_card(with_model(manifest, weights="random", license=None, source="random"), NAME)
    assert "The weights are random numbers" in card
    card = model_card(with_model(manifest, name="hf-hub:laion/clip", source="hf-hub"), NAME)
    assert metadata(card)["base_model"] == "laion/clip"


@pytest.mark.parametrize(("tower", "tag"), [("image", "image-feature-extraction"), ("text", "feature-extraction")])
def test_one_tower(manifest: Manifest, tower: Any, tag: str) -> None:
    one = msgspec.structs.replace(
        manifest,
        towers={tower: manifest.towers[tower]},
        engines=tuple(engine for engine in manifest.engines if engine.tower == tower),
        tokenizer=manifest.tokenizer if tower == "text" else None,
        parity=(),
    )
    card = model_card(one, NAME)
    assert metadata(card)["pipeline_tag"] == tag
    assert f"The {tower} tower of `demo`" in card
    other = {"image": "encode_text", "text": "encode_image"}[tower]
    assert other not in card
    assert "- Texts:" in card if tower == "text" else "- Images:" in card


def test_the_cards_python_works(
    manifest: Manifest, demo_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its three lines, with the folder in place of the reference."""
    from made_pictures import encoded

    (block,) = re.findall(r"```python\n(.*?)```", model_card(manifest, NAME), re.DOTALL)
    assert len(block.splitlines()) == 3
    (tmp_path / "photo.jpg").write_bytes(encoded(1, "JPEG"))
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    exec(block.replace(f"hf:{NAME}", str(demo_bundle)), scope)
    scope["clip"].close()


@given(st.text(max_size=40), st.text(max_size=40))
def test_texts_of_the_manifest_stay_texts(demo_bundle: Path, name: str, license_name: str) -> None:
    """The maker of a bundle may be anybody: no text of the manifest ends a line, a cell, or the front matter."""
    original = read_manifest(demo_bundle)
    plain = model_card(with_model(original, license="x"), NAME)
    card = model_card(with_model(original, name=name, license=license_name, license_source=name, tag=name), NAME)
    assert metadata(card)["library_name"] == "openclip-engines"
    assert len(re.findall(r"^## ", card, re.MULTILINE)) == len(re.findall(r"^## ", plain, re.MULTILINE))
    assert [len(table) for table in tables(card)] == [len(table) for table in tables(plain)]
    assert "<script" not in card.replace("\\<", "")


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
@pytest.mark.parametrize("towers", [("image",), ("text",), ("image", "text")])
def test_the_cards_cpp_compiles(manifest: Manifest, tmp_path: Path, towers: tuple[Any, ...]) -> None:
    some = msgspec.structs.replace(manifest, towers={name: manifest.towers[name] for name in towers})
    (block,) = re.findall(r"```cpp\n(.*?)```", model_card(some, NAME), re.DOTALL)
    include, *lines = block.splitlines()
    source = tmp_path / "main.cpp"
    source.write_text("\n".join([include, "int main() {", *lines, "}", ""]), encoding="utf-8")
    headers = Path(__file__).parents[2] / "engines" / "cpp" / "include"
    command = ["g++", "-std=c++20", "-fsyntax-only", "-I", str(headers), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
