"""Rows of what = peers: items per second of every contender, our speedup over each peer, and how equal the embeddings are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.harness.case_rows import row_of
from benchmarks.peers.contenders import TOWERS, Contender
from benchmarks.peers.inputs import SHAPES
from benchmarks.peers.measurement import Agreement, Measured
from benchmarks.records.estimates import estimate, rates, speedup
from benchmarks.records.figures import FIGURES
from benchmarks.records.peers import ratio_label
from benchmarks.records.rows import Row

_EXACT = {"image": "pictures of the model's size", "text": "real captions"}


def measured_rows(model: str, contenders: Sequence[Contender], measured: Measured, threads: int) -> list[Row]:
    """All rows of a run.

    Args:
        model: the architecture, whose weights are random, or ``demo``.
        contenders: those that took part, or could not.
        measured: the run.
        threads: number of threads of each contender.
    """
    made: list[Row] = []
    for contender in contenders:
        for tower in TOWERS:
            common = _columns(model, contender, measured.versions.get(contender, ""), threads) | {"tower": tower}
            agreement = measured.agreement.get((contender, tower))
            if agreement is not None:
                made += _agreement_rows(common, agreement)
            failure = measured.failures.get((contender, tower))
            if failure is not None:
                made.append(missing_row(model, contender, tower, failure, "--prepare" in failure))
                continue
            made += _speed_rows(common, contender, tower, agreement, measured)
    return made


def missing_row(model: str, contender: Contender, tower: str, reason: str, missing: bool) -> Row:
    """The row of a contender that was not timed.

    Args:
        model: the architecture, or ``demo``.
        contender: which has no figure.
        tower: ``image`` or ``text``.
        reason: why, in a few words.
        missing: whether something is not there; else it was tried and failed, or the library cannot do it.
    """
    columns = _columns(model, contender, "", 0) | {"tower": tower, "shape": SHAPES[tower]}
    status: Any = "missing" if missing or tower in contender.lacks else "failed"
    return Row(figure="per_second", status=status, note=reason, unit=FIGURES["per_second"].unit, **columns)


def _columns(model: str, contender: Contender, versions: str, threads: int) -> dict[str, Any]:
    return {
        "what": "peers",
        "model": model,
        "engine": contender.name,
        "precision": contender.precision,
        "weights": model if model == "demo" else "random",
        "threads": threads,
        "versions": versions,
    }


def _agreement_rows(common: dict[str, Any], found: Agreement) -> list[Row]:
    tower = common["tower"]
    figures = {"max_abs_error": (found.max_abs_error, _EXACT[tower]), "min_cosine": (found.min_cosine, _EXACT[tower])}
    made = []
    for figure, (value, shape) in figures.items():
        made.append(row_of(figure, estimate([value]), **common, shape=shape, note="against onnxruntime fp32"))
    if tower == "image":
        note = "against onnxruntime fp32, each with its own decoding and resizing"
        made.append(row_of("min_cosine", estimate([found.own_cosine]), **common, shape=SHAPES[tower], note=note))
    return made


def _speed_rows(
    common: dict[str, Any], contender: Contender, tower: str, agreement: Agreement | None, measured: Measured
) -> list[Row]:
    made = []
    remarks = [contender.note] if contender.note else []
    if agreement is not None:
        remarks.append(
            f"max error {agreement.max_abs_error:.1e}, cosine {agreement.min_cosine:.6f} to onnxruntime fp32"
        )
    for (timed, its_tower, batch), seconds in measured.seconds.items():
        if timed != contender or its_tower != tower:
            continue
        place = common | {"batch": batch, "shape": SHAPES[tower]}
        made.append(row_of("per_second", rates(seconds, batch), **place, note="; ".join(remarks)))
        for (peer, peers_tower, peers_batch), baseline in measured.seconds.items():
            same = (peers_tower, peers_batch) == (tower, batch) and len(baseline) == len(seconds)
            if contender.ours and not peer.ours and same and (peer, tower) not in measured.failures:
                name = place | {"engine": ratio_label(contender.name, peer.name)}
                made.append(row_of("speedup", speedup(seconds, baseline), **name, note="round by round"))
    return made
