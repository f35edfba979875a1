"""The manifest of a bundle: its typed schema, its version, and the reading of the file.

The format in prose is ``engines/FORMAT.md``. Paths inside a manifest are relative to the bundle, with forward slashes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import msgspec

from engines.bundle_files import manifest_paths, resolve_path
from engines.errors import BundleError, SchemaVersionError
from engines.float64_check import Float64Check

SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"

TowerName = Literal["image", "text"]


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """Where the weights came from."""

    name: str  # what the user asked for: "ViT-B-32", "hf-hub:org/repo", "demo", a path's file name
    architecture: str
    tag: str | None
    source: Literal["pretrained", "checkpoint", "hf-hub", "local-dir", "demo", "random"]
    weights: str  # sha256 (hex) of the checkpoint file, or "random"
    quick_gelu: bool
    embed_dim: int
    logit_scale: float  # the multiplier itself: exp() is already applied
    logit_bias: float | None = None


class Preprocess(msgspec.Struct, frozen=True, kw_only=True):
    """Plain data of the checkpoint's image transform (open_clip's ``PreprocessCfg``)."""

    size: tuple[int, int]  # (height, width) in pixels
    mean: tuple[float, float, float]  # of RGB scaled to 0..1
    std: tuple[float, float, float]
    interpolation: Literal["bicubic", "bilinear"]
    resize_mode: Literal["shortest", "longest", "squash"]
    fill_color: int = 0


class Tokenizer(msgspec.Struct, frozen=True, kw_only=True):
    """How text becomes ids; the vocabulary itself is the Hugging Face ``tokenizers`` file that `file` names."""

    file: str
    context_length: int
    vocab_size: int
    clean: Literal["lower", "whitespace", "canonicalize"]  # applied to the text before `file`'s own normalizer
    pad_id: int
    end_id: int  # a caption that is too long is cut to context_length, and its last id becomes this one
    strip_sep_token: bool = False  # wherever the end id stands, 0 takes its place (HFTokenizer's option)
    last_id: int | None = None  # takes the last position of every row, after the padding (HFTokenizer's "clips" mode)


class Tensor(msgspec.Struct, frozen=True, kw_only=True):
    """One input or output of a tower; a str in the shape names a dynamic dimension."""

    name: str
    dtype: str  # numpy's name
    shape: tuple[int | str, ...]


class TextLength(msgspec.Struct, frozen=True, kw_only=True):
    """How many ids of a row the text tower needs; measured on the tower at export time.

    ``end``: up to and with the highest id (the end-of-text token of a causal tower), plus `extra`.
    ``padding``: up to and with the last id that is not the pad id, plus `extra`.
    ``fixed``: always `max`.
    """

    keep: Literal["end", "padding", "fixed"]
    extra: int
    min: int
    max: int
    pad_id: int = 0  # fills rows up, to `min` or to a length that an engine was built for


class Quantization(msgspec.Struct, frozen=True, kw_only=True):
    """Which part of a tower computes with rounded weights and inputs (int8 and fp8 bundles)."""

    dtype: Literal["int8", "float8_e4m3fn"]
    layers: int  # that are quantized
    share: float  # of the FLOPs of all linear layers and convolutions that are in those, 0 to 1
    kept: dict[str, str] = {}  # layer that could be quantized and stays in high precision -> why
    calibration: str  # where inputs came from, from which ranges were taken
    samples: int  # how many


class Tower(msgspec.Struct, frozen=True, kw_only=True):
    """One tower's graph and signature."""

    graph: str  # the ONNX file
    input: Tensor
    output: Tensor
    length: TextLength | None = None  # text towers only
    fp32_units: dict[str, str] = {}  # unit kept in float32 -> why, "blocks.11.mlp": "activations reach 8e4"
    quantization: Quantization | None = None


class BatchProfile(msgspec.Struct, frozen=True, kw_only=True):
    """Batch sizes an engine takes in one run; `max` None means any."""

    min: int = 1
    opt: int | None = None
    max: int | None = None


class Range(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes that one dimension of an input may take: from `min` to `max`, and fastest at `opt`."""

    min: int
    opt: int
    max: int


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """One optimization profile of an engine whose kernels were chosen for a range of shapes."""

    batch: Range
    length: Range | None = None  # of text towers with a dynamic length


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine was built for."""

    library: str
    version: str
    device: str | None = None  # "sm80" …, "cpu"; None: any device of the library
    isa: str | None = (
        None  # instruction set of the CPU that the engine's code uses, "avx512"; None: the library chooses
    )
    # Which other devices it runs on: those of Ampere and later, or all of the same compute capability. None: only `device`.
    device_compatible: Literal["ampere+", "same-compute-capability"] | None = None
    version_compatible: bool = False  # later versions of the library of the same major version run it, too


class Build(msgspec.Struct, frozen=True, kw_only=True):
    """How an engine was built, and what came out."""

    seconds: float
    peak_memory_bytes: int  # of the building process, on the host
    fused_attention: int  # attention blocks that one kernel computes
    decomposed_attention: int  # attention blocks without such a kernel: matrix products and a softmax
    layers: dict[str, dict[str, int]] = {}  # type of layer -> dtype of what it gives -> count, in the parsed network
    options: dict[str, bool | int | str] = {}  # of the builder, where they are not the library's defaults


class Engine(msgspec.Struct, frozen=True, kw_only=True):
    """One engine of one tower. Several may stand for one tower; `engines.load` chooses."""

    kind: str  # "onnxruntime" | "tensorrt" | …: the name of its `engines/run_<kind>.py`
    tower: TowerName
    file: str
    target: Target
    batch: BatchProfile = BatchProfile()  # over all profiles
    profiles: tuple[Profile, ...] = ()
    stripped: bool = False  # the file holds no weights: they are taken from the tower's graph when it is loaded
    input_layout: Literal["padded", "packed"] = "padded"  # packed: ids end to end, and where each caption starts
    inspector: str | None = None  # JSON of the library's engine inspector: every layer of the built engine
    build: Build | None = None  # None: there was nothing to build


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What the parity gate demands of a precision."""

    min_cosine: float
    mean_cosine: float
    top1_agreement: float  # share of images whose best caption is eager fp32's best caption
    tie_margin: float = 1e-6  # a caption whose eager cosine is this close to the best one's is as good as the best


class TowerParity(msgspec.Struct, frozen=True, kw_only=True):
    """One tower's embeddings by an engine against eager float32 PyTorch's."""

    samples: int
    min_cosine: float
    mean_cosine: float
    max_abs_error: float


class Parity(msgspec.Struct, frozen=True, kw_only=True):
    """The gate's figures for one engine kind, and what measured them."""

    engine: str
    verified_with: str  # the library and version that ran, e.g. "onnxruntime 1.32.0 CPUExecutionProvider"
    engine_ran: bool = True  # False: the engine cannot run on the host that exported, and its graph ran in ONNX Runtime
    towers: dict[str, TowerParity]
    top1_agreement: float | None  # None where only one tower was exported
    limits: Limits
    passed: bool  # the limits are kept, or where they are not, every measured `ratio` is within its limit
    float64: dict[str, Float64Check] = {}  # tower name to what was measured where a float32 row is outside the limits
    accuracy_loss_allowed: bool = False  # --allow-accuracy-loss was given and was needed


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """A share, or a difference of two, with the ends of its 95 % confidence interval."""

    value: float
    low: float
    high: float


class Accuracy(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine makes of a task, next to eager float32 PyTorch on the same labelled pictures.

    Figures are shares from 0 to 1: ``top1``, ``top5``, ``image_to_text_recall_1`` …
    """

    engine: str
    verified_with: str
    dataset: str
    samples: int  # pictures
    classes: int  # 0: the pictures have captions only
    eager: dict[str, Interval]
    figures: dict[str, Interval]  # of the engine
    change: dict[str, Interval]  # engine minus eager, for the figures that the gate judges
    limit: float  # most that one of those may fall
    passed: bool


class Kernels(msgspec.Struct, frozen=True, kw_only=True):
    """Fused modules that took a native module's place, and how often."""

    mode: Literal["auto", "triton", "native"] = "native"
    swapped: dict[str, int] = {}


class File(msgspec.Struct, frozen=True, kw_only=True):
    """Size and checksum of one file of the bundle."""

    bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The whole of ``manifest.json``."""

    schema_version: int
    model: Model
    precision: Literal["fp32", "fp16", "bf16", "int8", "fp8"]
    preprocess: Preprocess
    tokenizer: Tokenizer | None
    towers: dict[TowerName, Tower]
    engines: tuple[Engine, ...]
    parity: tuple[Parity, ...]
    accuracy: tuple[Accuracy, ...] = ()  # empty: the task was not measured
    reference: str  # the .npz of inputs and eager embeddings
    kernels: Kernels = Kernels()
    created_with: dict[str, str] = {}  # package -> version
    files: dict[str, File] = {}


class _Version(msgspec.Struct):
    schema_version: int


def read_manifest(bundle: str | os.PathLike[str]) -> Manifest:
    """Read and validate a bundle's manifest.

    Raises:
        BundleError: no such folder, no manifest in it, not JSON, a field is missing or of the wrong type, or a path in it
            leaves the folder.
        SchemaVersionError: written by a newer release.
    """
    folder = Path(bundle)
    if not folder.is_dir():
        what = "a file, not a bundle's folder" if folder.exists() else "not there"
        raise BundleError(f"bundle {folder} is {what}")
    try:
        data = (folder / MANIFEST_NAME).read_bytes()
    except FileNotFoundError:
        raise BundleError(f"{folder} is not a bundle: it has no {MANIFEST_NAME}") from None
    except OSError as error:
        raise BundleError(f"cannot read {folder / MANIFEST_NAME}: {error.strerror or error}") from error
    try:
        version = msgspec.json.decode(data, type=_Version).schema_version
        if version > SCHEMA_VERSION:
            raise SchemaVersionError(
                f"bundle {folder} has schema version {version}, this release reads up to {SCHEMA_VERSION}: "
                "upgrade openclip-engines, or export the bundle again with this release"
            )
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{folder / MANIFEST_NAME} is damaged or was edited: {error}") from error
    for relative in manifest_paths(manifest):
        resolve_path(folder, relative)
    return manifest


def manifest_bytes(manifest: Manifest) -> bytes:
    """The manifest as indented JSON; the same manifest always gives the same bytes."""
    return msgspec.json.format(msgspec.json.encode(manifest, order="deterministic"), indent=2) + b"\n"
