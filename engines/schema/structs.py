"""The typed fields of a bundle's manifest; ``engines/FORMAT.md`` describes them in prose."""

from __future__ import annotations

from typing import Literal

import msgspec

from engines.precisions import PrecisionName, QuantizedDtype
from engines.schema.accuracy import Accuracy
from engines.schema.engine_entries import Engine, TowerName
from engines.schema.float64_check import Float64Check

KernelMode = Literal["auto", "triton", "native"]


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """The model and the source of its weights."""

    name: str  # the name that the user gave: "ViT-B-32", "hf-hub:org/repo", "demo", a path's file name
    architecture: str
    tag: str | None
    source: Literal["pretrained", "checkpoint", "hf-hub", "local-dir", "demo", "random"]
    weights: str  # sha256 (hex) of the checkpoint file, or "random"
    quick_gelu: bool
    embed_dim: int
    logit_scale: float  # the multiplier itself: exp() is already applied
    logit_bias: float | None = None
    license: str | None = None  # the weights' licence: SPDX's name, or "unknown"; None: the user's own weights
    license_source: str | None = None  # the page that states the licence


class Preprocess(msgspec.Struct, frozen=True, kw_only=True):
    """Plain data of the checkpoint's image transform (open_clip's ``PreprocessCfg``)."""

    size: tuple[int, int]  # (height, width) in pixels
    mean: tuple[float, float, float]  # means of red, green and blue, scaled to 0..1
    std: tuple[float, float, float]
    interpolation: Literal["bicubic", "bilinear"]
    resize_mode: Literal["shortest", "longest", "squash"]
    fill_color: int | tuple[int, int, int] = 0  # one value for every channel, or red, green and blue


class Tokenizer(msgspec.Struct, frozen=True, kw_only=True):
    """The conversion of text to ids; the vocabulary itself is in `file`, a file of Hugging Face ``tokenizers``."""

    file: str
    context_length: int
    vocab_size: int
    clean: Literal["lower", "whitespace", "canonicalize"]  # applied to the text before `file`'s own normalizer
    pad_id: int
    end_id: int  # a caption that is too long is cut to context_length, and its last id becomes this one
    strip_sep_token: bool = False  # every end id is replaced by 0 (HFTokenizer's option)
    last_id: int | None = None  # the id at every row's last position, after the padding (HFTokenizer's "clips" mode)


class Tensor(msgspec.Struct, frozen=True, kw_only=True):
    """One input or output of a tower; a str in the shape is the name of a dynamic dimension."""

    name: str
    dtype: str  # numpy's name of the dtype
    shape: tuple[int | str, ...]


class TextLength(msgspec.Struct, frozen=True, kw_only=True):
    """The number of ids of a row that the text tower needs; measured on the tower at export time.

    ``end``: the ids up to and with the highest id (the end-of-text token of a causal tower), plus `extra`.
    ``padding``: the ids up to and with the last id that is not the pad id, plus `extra`.
    ``fixed``: always `max`.
    """

    keep: Literal["end", "padding", "fixed"]
    extra: int
    min: int
    max: int
    pad_id: int = 0  # the id that fills rows up, to `min` or to a length for which an engine was built


class Quantization(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a tower that computes with rounded weights and inputs (int8 and fp8 bundles)."""

    dtype: QuantizedDtype
    layers: int  # number of quantized layers
    share: float  # quantized layers' share, 0 to 1, of the FLOPs of all linear layers and convolutions
    kept: dict[str, str] = {}  # layer that could be quantized but stays in high precision -> reason
    calibration: str  # the source of the inputs from which ranges were taken
    samples: int  # number of those inputs


class Tower(msgspec.Struct, frozen=True, kw_only=True):
    """One tower's graph and signature."""

    graph: str  # the ONNX file
    input: Tensor
    output: Tensor
    length: TextLength | None = None  # text towers only
    fp32_units: dict[str, str] = {}  # unit that stays in float32 -> reason, "blocks.11.mlp": "activations reach 8e4"
    quantization: Quantization | None = None


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of the parity gate for a precision."""

    min_cosine: float
    mean_cosine: float
    top1_agreement: float  # share of images whose best caption is eager fp32's best caption
    tie_margin: float = 1e-6  # a caption whose eager cosine is this close to the best caption's counts as the best


class TowerParity(msgspec.Struct, frozen=True, kw_only=True):
    """Differences between one tower's embeddings by an engine and those of eager float32 PyTorch."""

    samples: int
    min_cosine: float
    mean_cosine: float
    max_abs_error: float


class Parity(msgspec.Struct, frozen=True, kw_only=True):
    """The gate's figures for one kind of engine, and the library that measured them."""

    engine: str
    verified_with: str  # the library and version that ran, e.g. "onnxruntime 1.32.0 CPUExecutionProvider"
    engine_ran: bool = True  # False: the engine cannot run on the exporting host, where its graph ran in ONNX Runtime
    towers: dict[str, TowerParity]
    top1_agreement: float | None  # None where only one tower was exported
    limits: Limits
    passed: bool  # the figures are within the limits, or else every measured `ratio` is within its limit
    float64: dict[str, Float64Check] = {}  # tower name to the measurement where a float32 row is outside the limits
    accuracy_loss_allowed: bool = False  # the exporter had --allow-accuracy-loss, and needed it


class Kernels(msgspec.Struct, frozen=True, kw_only=True):
    """Fused modules that took the place of native modules, with their counts."""

    mode: KernelMode = "native"
    swapped: dict[str, int] = {}


class File(msgspec.Struct, frozen=True, kw_only=True):
    """Size and checksum of one file of the bundle."""

    bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The whole of ``manifest.json``."""

    schema_version: int
    model: Model
    precision: PrecisionName
    preprocess: Preprocess
    tokenizer: Tokenizer | None
    towers: dict[TowerName, Tower]
    engines: tuple[Engine, ...]
    parity: tuple[Parity, ...]
    accuracy: tuple[Accuracy, ...] = ()  # empty: the task was not measured
    reference: str  # the .npz file with inputs and eager embeddings
    kernels: Kernels = Kernels()
    created_with: dict[str, str] = {}  # package -> version
    files: dict[str, File] = {}
