"""The parity gate on the machine that serves: the bundle's own inputs and eager embeddings against its engine."""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engines.batches import run_in_batches
from engines.bundle_files import verify_files
from engines.bundle_paths import resolve_path
from engines.errors import BundleError
from engines.manifest import Limits, Manifest, Parity, Tower, TowerName, TowerParity, read_manifest
from engines.preprocess import normalize_pixels
from engines.runtime import choose_engine, open_tower

_KEYS = {"image": ("image_pixels", "image_embeds"), "text": ("text_ids", "text_embeds")}
_BATCH = 8


def compare_embeddings(reference: npt.NDArray[np.floating], candidate: npt.NDArray[np.floating]) -> TowerParity:
    """Cosines and the largest difference, row by row; NaN or infinity in `candidate` counts as cosine -1, error infinity.

    Args:
        reference: (N, D), L2-normalized.
        candidate: (N, D).

    Raises:
        ValueError: the shapes differ, or there is no row.
    """
    if reference.shape != candidate.shape or reference.ndim != 2 or not len(reference):
        raise ValueError(f"embeddings {candidate.shape} cannot be compared with a reference {reference.shape}")
    exact, other = reference.astype(np.float64), candidate.astype(np.float64)
    finite = np.asarray(np.isfinite(other).all(axis=1))
    other = np.where(finite[:, None], other, 0.0)
    norms = np.linalg.norm(exact, axis=1) * np.linalg.norm(other, axis=1)
    cosines = np.where(finite & (norms > 0), (exact * other).sum(axis=1) / np.where(norms > 0, norms, 1.0), -1.0)
    error = float(np.abs(exact - other).max()) if finite.all() else float("inf")
    return TowerParity(
        samples=len(exact),
        min_cosine=float(np.clip(cosines, -1.0, 1.0).min()),
        mean_cosine=float(np.clip(cosines, -1.0, 1.0).mean()),
        max_abs_error=error,
    )


def within(parity: TowerParity, limits: Limits) -> bool:
    """Whether one tower's cosines keep the limits."""
    return parity.min_cosine >= limits.min_cosine and parity.mean_cosine >= limits.mean_cosine


def top1_agreement(
    image_reference: npt.NDArray[np.floating],
    text_reference: npt.NDArray[np.floating],
    image_candidate: npt.NDArray[np.floating],
    text_candidate: npt.NDArray[np.floating],
    tie_margin: float,
) -> float:
    """Share of the images whose best caption is also the reference's best.

    Captions whose reference cosines are within `tie_margin` of the best one's are all best: which of them comes first is
    decided by rounding.
    """
    exact = image_reference.astype(np.float64) @ text_reference.astype(np.float64).T
    scores = image_candidate.astype(np.float64) @ text_candidate.astype(np.float64).T
    usable = np.isfinite(scores).all(axis=1)
    chosen = np.where(np.isfinite(scores), scores, -np.inf).argmax(axis=1)
    best = exact[np.arange(len(exact)), chosen] >= exact.max(axis=1) - tie_margin
    return float(np.mean(best & usable))


@dataclass(frozen=True)
class ReferenceData:
    """A bundle's own inputs and eager float32's embeddings, by tower name."""

    inputs: dict[str, npt.NDArray[np.generic]]
    embeds: dict[str, npt.NDArray[np.float32]]


def read_reference(bundle: Path, manifest: Manifest) -> ReferenceData:
    """Read the reference file.

    Raises:
        BundleError: it is missing or damaged.
    """
    path = resolve_path(bundle, manifest.reference)
    inputs: dict[str, npt.NDArray[np.generic]] = {}
    embeds: dict[str, npt.NDArray[np.float32]] = {}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            for tower in manifest.towers:
                keys = _KEYS[tower]
                inputs[tower], embeds[tower] = arrays[keys[0]], arrays[keys[1]]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise BundleError(f"{path} is missing or damaged ({error}): copy or export the bundle again") from error
    return ReferenceData(inputs, embeds)


def verify_bundle(
    bundle: str | os.PathLike[str], engine: str = "auto", device: str = "auto", **options: object
) -> list[Parity]:
    """Check every file of a bundle, then repeat the parity gate with this machine's engine.

    Args:
        bundle: the folder.
        engine: a kind, ``auto`` for the one that `engines.load` would take, or ``all``. Of a kind that has an engine for one tower
            only, that tower is checked; `towers_without_engine` names the other.
        device: ``auto``, ``cpu`` or ``cuda``.
        options: of the engine's runtime.

    Returns:
        One row for each engine kind; `passed` says whether it gives eager's embeddings within the precision's limits.

    Raises:
        BundleError: a file is missing, cut or changed.
        EngineUnavailableError: an engine that was asked for cannot run here.
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
    """What `verify_bundle` could not check: engine kind to the towers for which the bundle has none of that kind.

    Args:
        manifest: of the bundle.
        rows: of `verify_bundle`.
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
    used: list[str] = []
    ran: list[str] = []
    own = {item.tower for item in manifest.engines if item.kind == kind}
    for name, tower in manifest.towers.items():
        if own and name not in own:
            continue
        engine = choose_engine(folder, manifest, name, kind, device)
        runtime = open_tower(folder, engine, tower, manifest.precision, device, **options)
        try:
            inputs = reference.inputs[name]
            embeds[name] = run_in_batches(runtime, _as_input(inputs, tower, manifest), _BATCH)
        finally:
            runtime.close()
        used.append(engine.kind)
        ran.append(runtime.description)
    towers = {name: compare_embeddings(reference.embeds[name], embeds[name]) for name in embeds}
    agreement = None
    if {"image", "text"} <= set(embeds):
        exact = reference.embeds
        agreement = top1_agreement(exact["image"], exact["text"], embeds["image"], embeds["text"], limits.tie_margin)
    passed = all(within(parity, limits) for parity in towers.values())
    return Parity(
        engine=" + ".join(dict.fromkeys(used)),
        verified_with=" + ".join(dict.fromkeys(ran)),
        towers=towers,
        top1_agreement=agreement,
        limits=limits,
        passed=passed and (agreement is None or agreement >= limits.top1_agreement),
    )


def _as_input(rows: npt.NDArray[np.generic], tower: Tower, manifest: Manifest) -> npt.NDArray[np.generic]:
    """Reference rows as the graph takes them."""
    if tower.length is None and tower.input.dtype == "float32":
        return normalize_pixels(rows.astype(np.uint8, copy=False), manifest.preprocess)
    return rows
