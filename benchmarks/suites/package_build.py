"""One tower as an AOTInductor package, made by the exporter's own functions, for `benchmarks.suites.packages` to measure."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.records.rows import Row, Status

if TYPE_CHECKING:
    import torch

_COMPARED = 8  # rows whose embeddings are compared with eager's


@dataclass(frozen=True)
class PackageCase:
    """A package to be built and measured.

    Attributes:
        model: an architecture, or ``demo``.
        tower: ``image`` or ``text``.
        kernels: ``triton``, ``native`` or ``auto``; see `kernels.swap.swap`.
        search: the compiler times several kernels for every product (``max_autotune``), which takes minutes.
        batches: batch sizes that it is timed at; it is built for the largest, which comes first.
        precision: ``fp32``, ``fp16`` or ``bf16``.
        blocks: number of blocks that the image tower keeps, to try the code; 0 keeps all.
        seconds: time of each measurement.
        eager: time open_clip's own model in the same process, too, in float32 and in the package's precision.
    """

    model: str
    tower: str
    kernels: str
    search: bool
    batches: tuple[int, ...]
    precision: str
    blocks: int = 0
    seconds: float = 1.0
    eager: bool = False

    @property
    def engine(self) -> str:
        """The engine's name in rows: ``aotinductor triton tuned``."""
        return f"aotinductor {self.kernels}{' tuned' if self.search else ''}"

    def place(self, batch: int, graph: bool = False, eager: str = "") -> dict[str, Any]:
        """The columns that name a measurement of the package, or of the eager model in the precision `eager`."""
        place: dict[str, Any] = {"what": "package", "model": self.model, "tower": self.tower, "batch": batch}
        if eager:
            return place | {"engine": "eager", "precision": eager}
        return place | {"engine": self.engine + (" graph" if graph else ""), "precision": self.precision}

    def key(self, batch: int) -> tuple[str, ...]:
        """`Row.case` of the package as it is."""
        return self.failure(batch, "missing", "").case

    def failure(self, batch: int, status: Status, why: str, graph: bool = False) -> Row:
        """The row of a batch that was not measured."""
        return Row(figure="per_second", unit="1/s", status=status, note=why, **self.place(batch, graph))


@dataclass(frozen=True)
class Built:
    """A package on disk, and the eager embeddings that it is compared with.

    Attributes:
        path: the ``.pt2``.
        inputs: a function from a number of rows to a package's inputs of the first rows, on the device.
        expected: eager float32 embeddings of the first rows, (rows, D), on the CPU.
        seconds: time that the compiler took.
        note: the numbers of modules that fused ones replaced.
        eager: (precision, batch) → seconds of each call of open_clip's own model, or the reason why there are none; float32 first.
    """

    path: Path
    inputs: Callable[[int], list[torch.Tensor]]
    expected: torch.Tensor
    seconds: float
    note: str
    eager: Mapping[tuple[str, int], list[float] | str] = field(default_factory=dict)


def build_package(case: PackageCase, device: str, folder: Path) -> Built:
    """Load the model, embed a few rows with it, rebuild the tower, put fused kernels in, trace and compile.

    Args:
        case: the package.
        device: ``cpu`` or ``cuda``: the device that will run it.
        folder: folder for programs and package.

    Raises:
        ExportError: the compiler refused, or a block is unknown.
        RuntimeError: there is no C++ compiler; or of PyTorch, as where a GPU has no room.
    """
    import torch

    from engines.runtimes.aotinductor import cpu_isa
    from exporter.aotinductor.job import CompileJob, compiler_problem, run_job
    from exporter.aotinductor.program import ProgramPlan
    from exporter.aotinductor.tower_programs import save_programs
    from exporter.builders.aotinductor import inductor_options
    from exporter.precision.precisions import PRECISIONS, PrecisionPlan, apply_plan
    from exporter.stages import Stages
    from exporter.towers.modules import TextTower, TowerModule, image_tower, text_tower
    from exporter.towers.text_rules import find_text_length

    isa, problem = cpu_isa(), compiler_problem()
    if isa is None or problem is not None:
        raise RuntimeError(f"a package needs {problem or 'an x86-64 processor with AVX2, and this is none'}")
    arch = "cpu"
    if device == "cuda":
        major, minor = torch.cuda.get_device_capability()
        arch = f"sm{major}{minor}"
    model, preprocess, rows = _model_and_rows(case, device)
    if case.blocks:
        model.visual.transformer.resblocks = model.visual.transformer.resblocks[: case.blocks]
    expected = _expected(model, case.tower, preprocess, rows[:_COMPARED])
    eager = _eager(case, model, preprocess, rows, device) if case.eager else {}
    model = model.cpu()
    tower: TowerModule = image_tower(model, preprocess) if case.tower == "image" else text_tower(model)
    length = find_text_length(tower, rows.cpu().numpy(), 0) if isinstance(tower, TextTower) else None
    dtype = PRECISIONS[case.precision].dtype
    apply_plan(tower, PrecisionPlan(dtype, dtype))
    most = max(case.batches)
    plan = ProgramPlan(folder, most, None if device == "cpu" else most, case.kernels, arch)  # type: ignore[arg-type]
    example = rows[:1].cpu() if length is None or length.keep == "fixed" else rows[:1, :16].cpu()
    programs = save_programs(case.tower, tower, example, length, case.precision, plan, Stages())  # type: ignore[arg-type]
    del model, tower
    if device == "cuda":
        torch.cuda.empty_cache()  # the compiler has a process of its own, and times kernels in what is free
    package = folder / f"{case.tower}.pt2"
    result = run_job(
        CompileJob(
            program=str(programs.packed or programs.padded),
            package=str(package),
            cuda=device == "cuda",
            isa="avx2" if device == "cuda" else isa,
            inductor=inductor_options(arch, case.search),
        )
    )
    swapped = ", ".join(f"{count} {name}" for name, count in programs.swapped.swapped.items()) or "no fused kernels"
    if device == "cuda" and case.kernels == "auto":
        from kernels.choices import unmeasured

        swapped = unmeasured(arch) or swapped
    inputs = _packed if programs.packed else lambda rows: [rows.contiguous()]
    return Built(package, lambda count: inputs(rows[:count]), expected, result.build.seconds, swapped, eager)


def _eager(
    case: PackageCase, model: Any, preprocess: Any, rows: torch.Tensor, device: str
) -> dict[tuple[str, int], list[float] | str]:
    """Times of the model's own towers on inputs that are normalized and on the device already: see `Built.eager`."""
    import copy

    import torch

    from benchmarks.harness.timing import timed
    from exporter.precision.precisions import PRECISIONS

    found: dict[tuple[str, int], list[float] | str] = {}
    for precision in dict.fromkeys(("fp32", case.precision)):
        dtype = PRECISIONS[precision].dtype
        used = model if dtype == torch.float32 else copy.deepcopy(model).to(dtype)
        for batch in case.batches:
            inputs = _model_inputs(case.tower, preprocess, rows[:batch])
            inputs = inputs.to(dtype) if inputs.is_floating_point() else inputs
            encode = used.encode_image if case.tower == "image" else used.encode_text
            call = functools.partial(encode, inputs, normalize=True)
            try:
                with torch.inference_mode():
                    found[precision, batch] = timed(call, device, case.seconds)
            except RuntimeError as error:  # torch.OutOfMemoryError is one
                found[precision, batch] = " ".join(str(error).split())[:300]
            if device == "cuda":
                torch.cuda.empty_cache()
    return found


def _model_and_rows(case: PackageCase, device: str) -> tuple[Any, Any, Any]:
    """The model in float32 on the device, its `Preprocess`, and as many rows of input as the largest batch has."""
    import torch

    from engines.manifest import Preprocess

    torch.manual_seed(0)
    torch.backends.cudnn.allow_tf32 = False  # of the convolution over the patches: eager float32 is what is right here
    most = max(*case.batches, _COMPARED)
    if case.model == "demo":
        from exporter.source.loading import load_source

        source = load_source("demo", None, with_tokenizer=False)
        model: Any = source.model.to(device)
        preprocess = source.preprocess
    else:
        from benchmarks.contenders.eager import load_clip
        from benchmarks.workloads.subject import subject_of_model

        subject = subject_of_model(case.model)
        model, _, _ = load_clip(subject, device)
        preprocess = Preprocess(
            size=subject.size, mean=subject.mean, std=subject.std, interpolation="bicubic", resize_mode="shortest"
        )
    if case.tower == "image":
        return model, preprocess, torch.randint(0, 256, (most, *preprocess.size, 3), dtype=torch.uint8, device=device)
    if case.model == "demo":
        ids = _made_up_captions(most, int(model.context_length), int(model.vocab_size))
    else:
        from benchmarks.workloads.inputs import caption_ids

        ids = torch.from_numpy(caption_ids(subject, most))
    return model, preprocess, ids.to(device)


def _made_up_captions(count: int, context: int, vocabulary: int) -> torch.Tensor:
    """(count, context) int32: 8 to 25 ids, the last of which is the highest that there is, and zeros."""
    import torch

    lengths = torch.randint(8, 26, (count, 1))
    place = torch.arange(context)
    ids = torch.where(place < lengths - 1, torch.randint(1, vocabulary - 1, (count, context)), 0)
    return torch.where(place == lengths - 1, vocabulary - 1, ids).to(torch.int32)


def _expected(model: Any, tower: str, preprocess: Any, rows: torch.Tensor) -> torch.Tensor:
    """(rows, D) float32 by open_clip's own model."""
    import torch

    inputs = _model_inputs(tower, preprocess, rows)
    with torch.inference_mode():
        encode = model.encode_text if tower == "text" else model.encode_image
        return encode(inputs, normalize=True).float().cpu()


def _model_inputs(tower: str, preprocess: Any, rows: torch.Tensor) -> torch.Tensor:
    """The inputs of open_clip's own model: ids as int64, or pixels normalized in float32."""
    import torch

    if tower == "text":
        return rows.long()
    mean, std = (torch.tensor(values, device=rows.device) for values in (preprocess.mean, preprocess.std))
    return ((rows.float() / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()


def _packed(ids: torch.Tensor) -> list[torch.Tensor]:
    """Captions end to end (T,), and the start of each one (N + 1,), int32: as `engines.runtimes.aotinductor` packs them."""
    import torch

    lengths = ids.argmax(dim=1) + 1
    kept = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
    return [ids[kept], torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)]
