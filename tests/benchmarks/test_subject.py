"""benchmarks.workloads.subject: what a bundle is measured with."""

from __future__ import annotations

from pathlib import Path

import msgspec

from benchmarks.throughput import make_cases
from benchmarks.workloads.subject import subject_of_bundle
from engines.manifest import MANIFEST_NAME, manifest_bytes, read_manifest


def test_a_bundle_of_one_tower_is_measured_on_that_tower(bundle_copy: Path, tmp_path: Path) -> None:
    manifest = read_manifest(bundle_copy)
    image = msgspec.structs.replace(
        manifest,
        towers={"image": manifest.towers["image"]},
        engines=tuple(engine for engine in manifest.engines if engine.tower == "image"),
        tokenizer=None,
    )
    (bundle_copy / MANIFEST_NAME).write_bytes(manifest_bytes(image))
    subject = subject_of_bundle(bundle_copy)
    assert subject.towers == ("image",)
    cases = make_cases(subject, subject.towers, [1, 4], ["real", "full"], 0, None)(tmp_path)
    assert {case.tower for case in cases} == {"image"}


def test_a_whole_bundle_has_both(demo_bundle: Path) -> None:
    assert subject_of_bundle(demo_bundle).towers == ("image", "text")
