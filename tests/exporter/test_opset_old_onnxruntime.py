"""Bundles with ``--opset`` in old releases of ONNX Runtime, from pip's index, judged by `engines verify` on their own reference.

These are the releases that docs/export.md names. Where pip has none of them for this Python, or there is no network, the tests are
skipped.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from floor import ROOT
from made_once import made_once, session_folder
from pretended_cuda.wheels import NotInstalledError, install

import exporter

pytestmark = pytest.mark.long

OLDEST = {"fp32": "1.15.0", "int8": "1.15.0", "fp16": "1.17.0"}


def verify(release: str, bundle: Path, session: Path) -> subprocess.CompletedProcess[str]:
    """Run ``engines verify`` with a release of ONNX Runtime and the numpy that fits it in place of this environment's."""
    try:
        requirements = (f"onnxruntime=={release}", "numpy<2")
        site = made_once(session, f"onnxruntime-{release}", lambda folder: install(requirements, folder))
    except NotInstalledError as error:
        pytest.skip(str(error))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(site), str(ROOT))), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "engines", "verify", str(bundle)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("precision", OLDEST)
def test_opset_18_in_the_oldest_release(
    precision: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    bundle = exporter.export(
        "demo", precision=precision, opset=18, engines=["onnxruntime"], parity_samples=16, out=tmp_path / "bundle"
    )
    ran = verify(OLDEST[precision], bundle, session_folder(tmp_path_factory))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for tower in ("image", "text"):
        assert f"onnxruntime {OLDEST[precision]} CPUExecutionProvider  {tower}" in ran.stdout
    assert "verified: files and embeddings are right" in ran.stdout


def test_a_graph_that_is_too_new_is_reported_with_the_remedy(
    demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    ran = verify("1.17.0", demo_bundle, session_folder(tmp_path_factory))
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-1].endswith("install a newer one, or export the bundle with an older --opset")
    assert "Traceback" not in ran.stderr
