"""A bundle's hard captions: another cleaning, vocabulary or special id is noticed, and named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ftfy
import numpy as np
import pytest
from edited_bundles import edit_manifest, relist
from test_verify_pixels import arrays_of, change

from engines.__main__ import main
from engines.errors import BundleError
from engines.manifest import read_manifest
from engines.verification.ids import IDS, TEXTS, verify_ids


def test_a_good_bundle(demo_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = verify_ids(demo_bundle)
    assert (found.passed, found.failures) == (True, ())
    assert found.captions >= 30
    assert read_manifest(demo_bundle).created_with["ftfy"] == ftfy.__version__
    assert main(["verify", str(demo_bundle)]) == 0
    assert f"ids of {found.captions} hard captions are the exporter's" in capsys.readouterr().out
    assert main(["verify", str(demo_bundle), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ids"] == {"captions": found.captions, "failures": [], "passed": True}


def test_captions_are_those_that_open_clip_was_compared_with(demo_bundle: Path) -> None:
    from open_clip.tokenizer import SimpleTokenizer

    arrays = arrays_of(demo_bundle)
    texts = json.loads(arrays[TEXTS].tobytes())
    assert "" in texts
    assert any("🐶" in text for text in texts)
    np.testing.assert_array_equal(SimpleTokenizer()(texts).numpy(), arrays[IDS])


@pytest.mark.parametrize(
    "lie", [{"clean": "canonicalize"}, {"clean": "whitespace"}, {"strip_sep_token": True}, {"last_id": 3}]
)
def test_a_manifest_that_lies_about_the_tokenizer(
    lie: dict[str, Any], bundle_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit_manifest(bundle_copy, lambda data: data["tokenizer"].update(lie))
    if "last_id" in lie:  # which the file has to leave room for
        file = bundle_copy / "tokenizer.json"
        data = json.loads(file.read_text(encoding="utf-8"))
        data["truncation"]["max_length"] = data["padding"]["strategy"]["Fixed"] = 76
        file.write_text(json.dumps(data), encoding="utf-8")
        relist(bundle_copy, ["tokenizer.json"])
    found = verify_ids(bundle_copy)
    assert not found.passed
    assert 1 <= len(found.failures) <= 3
    assert "instead of" in found.failures[0]
    assert f"ftfy {ftfy.__version__}" in found.failures[0]
    assert main(["verify", str(bundle_copy)]) == 3
    out = capsys.readouterr().out
    assert found.failures[0].split(": ")[1] in out
    assert "FAILED: captions become other ids here than where the bundle was exported" in out


def test_another_vocabulary(bundle_copy: Path) -> None:
    file = bundle_copy / "tokenizer.json"
    data = json.loads(file.read_text(encoding="utf-8"))
    vocabulary = data["model"]["vocab"]
    vocabulary["dog</w>"], vocabulary["cat</w>"] = vocabulary["cat</w>"], vocabulary["dog</w>"]
    file.write_text(json.dumps(data), encoding="utf-8")
    relist(bundle_copy, ["tokenizer.json"])
    found = verify_ids(bundle_copy)
    assert not found.passed
    assert "'a photo of a dog.': id " in found.failures[0]


def test_bundles_of_earlier_releases(bundle_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(bundle_copy, **{TEXTS: None, IDS: None})
    assert (verify_ids(bundle_copy).passed, verify_ids(bundle_copy).captions) == (True, 0)
    assert main(["verify", str(bundle_copy)]) == 0
    assert "not checked: ids of captions" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arrays",
    [
        {TEXTS: np.frombuffer(b"{", np.uint8)},
        {TEXTS: np.frombuffer(b"{}", np.uint8)},
        {TEXTS: np.frombuffer(b"[1]", np.uint8)},
        {TEXTS: np.zeros(3, np.float32)},
        {TEXTS: np.frombuffer(b'["a", "b"]', np.uint8)},
        {IDS: None},
        {IDS: np.zeros(4, np.int32)},
        {IDS: np.zeros((4, 77), np.float32)},
    ],
)
def test_damaged_captions(arrays: dict[str, Any], bundle_copy: Path) -> None:
    change(bundle_copy, **arrays)
    with pytest.raises(BundleError, match=r"reference\.npz is missing or damaged"):
        verify_ids(bundle_copy)
