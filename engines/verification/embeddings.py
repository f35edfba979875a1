"""The parity gate on the machine that serves: the engine's embeddings of the bundle's inputs against eager's in the bundle."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.bundle_files import verify_files
from engines.errors import BundleError
from engines.files.bundle_paths import resolve_path
from engines.files.npz_files import opened_npz
from engines.inputs.preprocess import normalize_pixels
from engines.manifest import Limits, Manifest, Parity, Tower, TowerName, TowerParity, read_manifest
from engines.runtimes.batches import run_ids, run_in_batches
from engines.runtimes.choice import choose_engine, open_tower
from engines.runtimes.protocol import TowerRuntime
from engines.schema.float64_check import Float64Check
from engines.verification.rough_inputs import RoughInputs, check_distances, distances, kept, read_rough, top1_margins

_KEYS = {"image": ("image_pixels", "image_embeds"), "text": ("text_ids", "text_embeds")}
_BATCH = 8


def compare_embeddings(reference: npt.NDArray[np.floating], candidate: npt.NDArray[np.floating]) -> TowerParity:
    """Cosines of the rows and the largest difference; NaN or infinity in `candidate` counts as cosine -1, error infinity.

    Args:
        reference: (N, D), L2-normalized.
        candidate: (N, D).

    Raises:
        ValueError: the shapes differ, or there is no row.
    """
    if reference.shape != candidate.shape or reference.ndim != 2 or not len(reference):
        raise ValueError(f"embeddings {candidate.shape} cannot be compared with a reference {reference.shape}")
    cosines = cosines_of(reference, candidate)
    finite = np.isfinite(candidate).all()
    error = float(np.abs(reference.astype(np.float64) - candidate.astype(np.float64)).max()) if finite else float("inf")
    return TowerParity(
        samples=len(reference),
        min_cosine=float(cosines.min()),
        mean_cosine=float(cosines.mean()),
        max_abs_error=error,
    )


def cosines_of(reference: npt.NDArray[np.floating], candidate: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """The cosine (N,) of each row (N, D) with the reference's; -1 for a row with NaN or infinity, or of length 0."""
    exact, other = reference.astype(np.float64), candidate.astype(np.float64)
    finite = np.asarray(np.isfinite(other).all(axis=1))
    other = np.where(finite[:, None], other, 0.0)
    norms = np.linalg.norm(exact, axis=1) * np.linalg.norm(other, axis=1)
    cosines = np.where(finite & (norms > 0), (exact * other).sum(axis=1) / np.where(norms > 0, norms, 1.0), -1.0)
    return np.asarray(np.clip(cosines, -1.0, 1.0), dtype=np.float64)


def within(parity: TowerParity, limits: Limits) -> bool:
    """Whether one tower's cosines are within the limits."""
    return parity.min_cosine >= limits.min_cosine and parity.mean_cosine >= limits.mean_cosine


def top1_agreement(
    image_reference: npt.NDArray[np.floating],
    text_reference: npt.NDArray[np.floating],
    image_candidate: npt.NDArray[np.floating],
    text_candidate: npt.NDArray[np.floating],
    tie_margin: float | npt.NDArray[np.floating],
) -> float:
    """Share of the images whose best caption is also the reference's best.

    Captions whose reference cosines are within `tie_margin` (one number for all images, or one for each) of the best caption's are
    all best, because only rounding decides which of them comes first.
    """
    return float(np.mean(top1_hits(image_reference, text_reference, image_candidate, text_candidate, tie_margin)[0]))


def top1_hits(
    image_reference: npt.NDArray[np.floating],
    text_reference: npt.NDArray[np.floating],
    image_candidate: npt.NDArray[np.floating],
    text_candidate: npt.NDArray[np.floating],
    tie_margin: float | npt.NDArray[np.floating],
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """For each image: whether the candidate's best caption is as good as the reference's, and the indices of both captions.

    Returns:
        Hits, the reference's best captions, and the candidate's best captions, each (images,).
    """
    exact = image_reference.astype(np.float64) @ text_reference.astype(np.float64).T
    scores = image_candidate.astype(np.float64) @ text_candidate.astype(np.float64).T
    usable = np.isfinite(scores).all(axis=1)
    chosen = np.where(np.isfinite(scores), scores, -np.inf).argmax(axis=1)
    best = exact[np.arange(len(exact)), chosen] >= exact.max(axis=1) - tie_margin
    return best & usable, exact.argmax(axis=1), chosen


@dataclass(frozen=True)
class ReferenceData:
    """A bundle's inputs and eager float32's embeddings, by tower name; inputs on which float32 is rough stand apart."""

    inputs: dict[str, npt.NDArray[np.generic]]
    embeds: dict[str, npt.NDArray[np.float32]]
    rough: dict[str, RoughInputs] = field(default_factory=dict)


def read_reference(bundle: Path, manifest: Manifest) -> ReferenceData:
    """Read the reference file.

    Raises:
        BundleError: the file is missing or damaged.
    """
    path = resolve_path(bundle, manifest.reference)
    inputs: dict[str, npt.NDArray[np.generic]] = {}
    embeds: dict[str, npt.NDArray[np.float32]] = {}
    rough: dict[str, RoughInputs] = {}
    with opened_npz(path, BundleError, "is missing or damaged", "copy or export the bundle again") as arrays:
        for tower in manifest.towers:
            keys = _KEYS[tower]
            inputs[tower], embeds[tower] = arrays[keys[0]], arrays[keys[1]]
            rough_inputs = read_rough(arrays, tower, keys[0], len(inputs[tower]))
            if rough_inputs is not None:
                rough[tower] = rough_inputs
            elif not len(inputs[tower]):
                raise ValueError(f"{keys[0]} is empty")
            shape = (len(inputs[tower]), manifest.model.embed_dim)
            if embeds[tower].shape != shape or embeds[tower].dtype != np.float32:
                raise ValueError(f"{keys[1]} is {embeds[tower].dtype} {embeds[tower].shape}, not float32 {shape}")
    return ReferenceData(inputs, embeds, rough)


def verify_bundle(
    bundle: str | os.PathLike[str], engine: str = "auto", device: str = "auto", **options: object
) -> list[Parity]:
    """Check every file of a bundle, then repeat the parity gate with this machine's engine.

    Args:
        bundle: the bundle's folder.
        engine: a kind, ``auto`` for the kind that `engines.load` would take, or ``all``. Where a kind has an engine for one tower
            only, that tower is checked; `towers_without_engine` returns the other.
        device: ``auto``, ``cpu`` or ``cuda``.
        options: options of the engine's runtime.

    Returns:
        One row for each engine kind; its `passed` is True if the embeddings are eager's within the precision's limits.

    Raises:
        BundleError: a file is missing, cut or changed.
        EngineUnavailableError: an engine to be checked cannot run here.
    """
    folder = Path(bundle)
    manifest = read_manifest(folder)
    verify_files(folder, manifest, full=True)
    if not manifest.parity:
        raise BundleError(f"the manifest of {folder} has no parity limits: export the bundle again")
    limits = manifest.parity[-1].limits
    reference = read_reference(folder, manifest)
    kinds = list(dict.fromkeys(item.kind for item in manifest.engines)) if engine == "all" else [engine]
    return [_verify_kind(folder, manifest, reference, limits, kind, device, options) for kind in kinds]


def towers_without_engine(manifest: Manifest, rows: list[Parity]) -> dict[str, list[TowerName]]:
    """Engine kind to the towers that `verify_bundle` could not check, because the bundle has no engine of that kind for them.

    Args:
        manifest: the bundle's manifest.
        rows: the result of `verify_bundle`.
    """
    missing = {row.engine: [name for name in manifest.towers if name not in row.towers] for row in rows}
    return {kind: towers for kind, towers in missing.items() if towers}


def _verify_kind(
    folder: Path,
    manifest: Manifest,
    reference: ReferenceData,
    limits: Limits,
    kind: str,
    device: str,
    options: dict[str, object],
) -> Parity:
    embeds: dict[str, npt.NDArray[np.float32]] = {}
    float64: dict[str, Float64Check] = {}
    only_rough: dict[str, TowerParity] = {}
    used: list[str] = []
    ran: list[str] = []
    with_engine = {item.tower for item in manifest.engines if item.kind == kind}
    for name, tower in manifest.towers.items():
        if with_engine and name not in with_engine:
            continue
        engine = choose_engine(folder, manifest, name, kind, device)
        runtime = open_tower(folder, engine, tower, manifest.precision, device, **options)
        try:
            inputs = reference.inputs[name]
            if len(inputs):  # otherwise float32 is rough on all inputs
                embeds[name] = _run(runtime, inputs, tower, manifest)
            rough = reference.rough.get(name)
            if rough is not None:
                rough_embeds = _run(runtime, rough.inputs, tower, manifest)
                float64[name] = check_distances(distances(rough.embeds, rough_embeds), rough.eager)
                only_rough[name] = compare_embeddings(rough.embeds, rough_embeds)
        finally:
            runtime.close()
        used.append(engine.kind)
        ran.append(runtime.description)
    towers = {name: compare_embeddings(reference.embeds[name], embeds[name]) for name in embeds}
    agreement = None
    if {"image", "text"} <= set(embeds):
        exact = reference.embeds
        margins = top1_margins(limits.tie_margin, reference.rough)
        agreement = top1_agreement(exact["image"], exact["text"], embeds["image"], embeds["text"], margins)
    passed = all(within(parity, limits) for parity in towers.values()) and all(map(kept, float64.values()))
    return Parity(
        engine=" + ".join(dict.fromkeys(used)),
        verified_with=" + ".join(dict.fromkeys(ran)),
        towers={name: towers.get(name) or only_rough[name] for name in manifest.towers if name in towers | only_rough},
        top1_agreement=agreement,
        limits=limits,
        passed=passed and (agreement is None or agreement >= limits.top1_agreement),
        float64=float64,
    )


def _run(runtime: TowerRuntime, rows: npt.NDArray[Any], tower: Tower, manifest: Manifest) -> npt.NDArray[np.float32]:
    """Embeddings (N, D) of reference rows, computed in the same way as in `Embedder`."""
    if tower.length is not None and manifest.tokenizer is not None:
        return run_ids(runtime, rows.astype(np.int32, copy=False), tower.length, manifest.tokenizer.pad_id, _BATCH)
    if tower.input.dtype == "float32":
        rows = normalize_pixels(rows.astype(np.uint8, copy=False), manifest.preprocess)
    return run_in_batches(runtime, rows, _BATCH)
