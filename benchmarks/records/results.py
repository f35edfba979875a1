"""The folders of rows: where commands write them, and where the committed ones lie."""

from __future__ import annotations

from pathlib import Path

# Below the working directory, which in a clone is its root: nothing is written into the folder of an installed package.
RESULTS = Path("benchmarks") / "results"
# The rows that are part of the repository, for what was counted once and holds on every machine; read, never written.
COMMITTED = Path(__file__).resolve().parents[1] / "results"
