"""The suites of `make bench`, `bench-int8` and `gpu` as data. Kinds of engines come from `engines.engine_kinds`.

A suite is made of named parts, a part of steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engines.engine_kinds import KINDS

if TYPE_CHECKING:
    from benchmarks.contenders import Contender
    from benchmarks.workloads.inputs import Case


@dataclass(frozen=True)
class Sweep:
    """One model in a part.

    Attributes:
        model: an architecture, or ``demo``.
        precision: precision of the bundle that is exported for its engines; None exports none.
        engines: kinds in that bundle; one that cannot be built here costs a line.
        contenders: names; see `benchmarks.contenders`.
        batches: batch sizes of both towers.
        texts: ``real``, ``full``.
        files: number of files for the run from files to embeddings; 0 leaves it out.
        case_seconds: see `benchmarks.harness.plan.Plan`.
        only: whether a contender takes part in a case.
    """

    model: str
    precision: str | None
    engines: tuple[str, ...]
    contenders: tuple[str, ...]
    batches: tuple[int, ...]
    texts: tuple[str, ...] = ("real",)
    files: int = 0
    case_seconds: float = 0.0
    only: Callable[[Contender, Case], bool] = lambda contender, case: True


@dataclass(frozen=True)
class Ceilings:
    """The highest rates that the machine reaches: rates of every run are compared with those of the same run.

    Attributes:
        sizes, seconds: see `benchmarks.ceilings.measure_ceilings`.
    """

    sizes: tuple[int, ...] = ()
    seconds: float = 1.0


@dataclass(frozen=True)
class Facts:
    """Facts of the machine, and the vendor's matrix products at a tower's shapes.

    Attributes:
        products: (rows, in, out) of linear layers.
        precision: precision of their operands.
    """

    products: tuple[tuple[int, int, int], ...]
    precision: str = "fp16"


@dataclass(frozen=True)
class Package:
    """A tower as an AOTInductor package; see `benchmarks.suites.package_build.PackageCase`."""

    model: str
    tower: str
    kernels: str
    search: bool
    batches: tuple[int, ...]
    precision: str = "fp16"
    blocks: int = 0
    seconds: float = 1.0
    eager: bool = False


@dataclass(frozen=True)
class Kernels:
    """Cases of `benchmarks.kernel_ops`.

    Attributes:
        towers: names of towers, or parts of them.
        batches: batch sizes of both kinds of towers.
        ops: names of cases; empty is all.
        choices: the winners go into the table that packages with ``kernels=auto`` are made from.
        precision, rounds: see `benchmarks.kernel_ops.run`.
        compiles: PyTorch's compiler takes part; else what it would compile runs as it is.
        missing: leave out what the table of choices has rows of.
    """

    towers: tuple[str, ...]
    batches: tuple[int, ...]
    ops: tuple[str, ...] = ()
    choices: bool = True
    precision: str = "fp16"
    rounds: int = 5
    compiles: bool = True
    missing: bool = False


@dataclass(frozen=True)
class Tests:
    """The tests that need a GPU.

    Attributes:
        paths: files or folders from the repository's root; empty is all.
    """

    paths: tuple[str, ...] = ()


Step = Sweep | Ceilings | Facts | Package | Kernels | Tests


@dataclass(frozen=True)
class Suite:
    """A command's work.

    Attributes:
        device: ``cpu`` or ``cuda``.
        minutes: time that all parts may take together.
        parts: names, each with its steps, in order of worth.
        folder: folder for its rows within the machine's, where rows must not replace another suite's; empty: the machine's.
        rounds, round_seconds, passes: see `benchmarks.harness.plan.Plan`. A pass goes over the models of all parts.
    """

    device: str
    minutes: float
    parts: Mapping[str, tuple[Step, ...]]
    rounds: int
    round_seconds: float
    passes: int = 1
    folder: str = ""


def _within_ten_minutes(contender: Contender, case: Case) -> bool:
    """On two cores texts full of tokens come in batches only, and torch.compile, half a minute a shape, takes batches of images."""
    if case.shape.endswith(" tokens") and case.batch == 1:
        return False
    return "compile" not in contender.engine or (case.tower == "image" and case.batch > 1)


def _compile_is_slow(contender: Contender, case: Case) -> bool:
    """Compilers that search for each shape anew take minutes: they take part where the batch fills the GPU, and at batch 1."""
    if "max-autotune" in contender.engine:
        return contender.precision == "fp16" and case.tower == "image" and case.batch == MOST
    if "compile" in contender.engine or contender.engine == "triton kernels":
        return contender.precision == "fp16" and case.batch in (1, MOST)
    return contender.precision in ("fp32", "fp16")


MOST = 256
_KERNEL_TOWERS = ("ViT-L-14 image", "ViT-L-14 text", "ViT-B-32 image", "ViT-H-14 image")
_LARGEST = ("ViT-L-14 image", "ViT-L-14 text")
# Each group runs in processes of its own, because a crash in one must not cost the others their rows.
_ATTENTION = ("attention", "causal_attention", "packed_attention")
_MLP = ("mlp",)
_REST = ("add_layer_norm", "patches", "l2_normalize")
_ROWS = MOST * 257  # tokens of a batch of ViT-L-14
# Its projections, both halves of its MLP, and its patches, with 588 numbers as they are and padded to a multiple of 16.
_PRODUCTS = (
    *((_ROWS, width_in, width_out) for width_in, width_out in ((1024, 3072), (1024, 1024), (1024, 4096), (4096, 1024))),
    *((MOST * 256, width_in, 1024) for width_in in (588, 592)),
)
GPU_BATCHES = (MOST, 32, 1)  # what matters most comes first, in case the time is over
_GPU_TESTS = (
    "tests/kernels",
    "tests/benchmarks/test_device_time.py",
    "tests/engines/test_aotinductor_gpu.py",
    "tests/engines/test_onnxruntime_gpu.py",
)


def _kernels(ops: tuple[str, ...]) -> tuple[Kernels, ...]:
    """Ops where the batch fills the GPU, at the towers that matter most first; each step is a process of its own."""
    return (Kernels(_LARGEST, (MOST,), ops), Kernels(_KERNEL_TOWERS, GPU_BATCHES, ops))


_GPU_MODELS = ("ViT-L-14", "ViT-B-32", "ViT-H-14")
_TORCH = ("eager", "triton kernels", "torch.compile", "torch.compile max-autotune", "torch-tensorrt", "null")
# Every kind that runs on a GPU; the built ones come first, because what runs the graph needs no build.
_BUILT = tuple(sorted((name for name, kind in KINDS.items() if kind.cuda), key=lambda name: KINDS[name].runs_graph))
# OpenVINO takes part in `bench` as a peer on a plain export, and as an engine only where bundles are int8.
_NOT_IN_BENCH = ("openvino",)
_ON_CPU = tuple(name for name, kind in KINDS.items() if kind.cpu and name not in _NOT_IN_BENCH)
# Compiled kinds are left out, because a quantized bundle holds their program for one target only.
_INT8_ON_CPU = tuple(sorted(name for name, kind in KINDS.items() if kind.cpu and kind.runs_graph))

SUITES = {
    "bench": Suite(
        device="cpu",
        minutes=10,
        parts={
            "ceilings": (Ceilings(),),
            "demo": (
                Sweep(
                    "demo",
                    "fp32",
                    _ON_CPU,
                    ("eager", "torch.compile", "onnxruntime plain", "openvino plain", "null"),
                    (1, 32),
                    files=96,
                    case_seconds=2.5,
                    only=_within_ten_minutes,
                ),
            ),
            "models": (
                Sweep(
                    "ViT-B-32",
                    "fp32",
                    _ON_CPU,
                    ("eager", "torch.compile", "onnxruntime plain", "openvino plain"),
                    (1, 8),  # on two cores no slower than 16, and twice as many rounds
                    ("real", "full"),
                    files=32,
                    case_seconds=4.0,
                    only=_within_ten_minutes,
                ),
            ),
        },
        rounds=6,
        round_seconds=0.05,
        passes=3,
    ),
    "int8": Suite(
        device="cpu",
        minutes=12,
        parts={
            "models": (
                Sweep(
                    "ViT-B-32",
                    "int8",
                    _INT8_ON_CPU,
                    ("eager", "openvino nncf"),
                    (1, 16),
                    ("real", "full"),
                    case_seconds=4.0,
                    only=_within_ten_minutes,
                ),
            ),
        },
        rounds=6,
        round_seconds=0.05,
        passes=3,
        folder="int8",
    ),
    "gpu": Suite(
        device="cuda",
        minutes=9,
        parts={
            "ceilings": (Ceilings(),),
            "facts": (Facts(_PRODUCTS),),
            "packages": (
                Package("ViT-L-14", "image", "triton", False, GPU_BATCHES, eager=True),
                Package("ViT-L-14", "image", "native", False, GPU_BATCHES),
                Package("ViT-B-32", "image", "triton", False, (32, 1), eager=True),
            ),
            "tests": (Tests(_GPU_TESTS),),
            "attention": _kernels(_ATTENTION),
            "norm": _kernels(_REST),
            "mlp": _kernels(_MLP),
            "choices": tuple(Kernels(_LARGEST, (MOST,), ops, missing=True) for ops in (_ATTENTION, _MLP, _REST)),
            "tuned": (
                Package("ViT-L-14", "image", "auto", True, GPU_BATCHES, eager=True),
                Package("ViT-L-14", "text", "auto", True, GPU_BATCHES, eager=True),
                Package("ViT-L-14", "image", "native", True, GPU_BATCHES),
            ),
            "models": tuple(Sweep(m, None, (), _TORCH, GPU_BATCHES, only=_compile_is_slow) for m in _GPU_MODELS),
            "engines": tuple(
                Sweep(m, "fp16", _BUILT, ("eager", "onnxruntime plain"), GPU_BATCHES, only=_compile_is_slow)
                for m in _GPU_MODELS
            ),
        },
        rounds=5,
        round_seconds=0.15,
    ),
}
