"""``python -m pretended_cuda.worker RESULT`` with a `Job` as JSON on its input: a scenario on the pretended device."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec

from exporter.child_process import serve


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What to do.

    Attributes:
        scenario: name of a function in `pretended_cuda.scenarios`.
        bundle: folder of a bundle.
    """

    scenario: str
    bundle: str


class Findings(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it.

    Attributes:
        onnxruntime: version that ran.
        answers: of the scenario.
    """

    onnxruntime: str
    answers: dict[str, Any]


def work(job: Job) -> Findings:
    """Play the scenario."""
    import onnxruntime

    from pretended_cuda import scenarios
    from pretended_cuda.device import Device

    answers = getattr(scenarios, job.scenario)(Device(), Path(job.bundle))
    return Findings(onnxruntime=onnxruntime.__version__, answers=answers)


if __name__ == "__main__":
    sys.exit(serve(Job, work))
