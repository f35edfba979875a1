"""Single AOTInductor packages of a tower, as the exporter makes them: built, compared with eager float32, timed, looked into.

What is left out is the rest of a bundle (the ONNX graph, the gate's samples, other engines), because minutes count on a GPU.
A package is timed as it is and as a CUDA graph, which shows what the launches of its kernels cost.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.ceilings import timed
from benchmarks.estimates import Estimate, estimate, rates
from benchmarks.machine import versions
from benchmarks.rows import FIGURES, Row, Status
from benchmarks.work import ceiling_tflops, flops_of

if TYPE_CHECKING:
    import torch

    from benchmarks.step import Keeper

PROFILE = "profile.json"
_COMPARED = 8  # rows whose embeddings are compared with eager's
_KERNELS = 25  # of a profile
_PROFILED_CALLS = 3
_WARM_UP = 3


@dataclass(frozen=True)
class PackageCase:
    """A package to be built and measured.

    Attributes:
        model: an architecture, or ``demo``.
        tower: ``image`` or ``text``.
        kernels: ``triton``, ``native`` or ``auto``; see `kernels.swap.swap`.
        search: the compiler times several kernels for every product (``max_autotune``), which takes minutes.
        batches: that it is timed at; it is built for the largest, which comes first.
        precision: ``fp32``, ``fp16`` or ``bf16``.
        blocks: leave the image tower only so many, to try the code; 0 leaves it all.
        seconds: that each measurement takes.
    """

    model: str
    tower: str
    kernels: str
    search: bool
    batches: tuple[int, ...]
    precision: str
    blocks: int = 0
    seconds: float = 1.0

    @property
    def engine(self) -> str:
        """As rows name it: ``aotinductor triton tuned``."""
        return f"aotinductor {self.kernels}{' tuned' if self.search else ''}"

    def place(self, batch: int, graph: bool = False) -> dict[str, Any]:
        """The columns that name a measurement."""
        place: dict[str, Any] = {
            "what": "package",
            "model": self.model,
            "tower": self.tower,
            "precision": self.precision,
        }
        return place | {"engine": self.engine + (" graph" if graph else ""), "batch": batch}

    def key(self, batch: int) -> tuple[str, ...]:
        """`Row.case` of the package as it is."""
        return self.failure(batch, "missing", "").case

    def failure(self, batch: int, status: Status, why: str, graph: bool = False) -> Row:
        """The row of a batch that was not measured."""
        return Row(figure="per_second", unit="1/s", status=status, note=why, **self.place(batch, graph))


@dataclass(frozen=True)
class Built:
    """A package on disk, and what it is compared with.

    Attributes:
        path: the ``.pt2``.
        inputs: makes a package's inputs of the first so many rows, on the device.
        expected: eager float32 embeddings of the first rows, (rows, D), on the CPU.
        seconds: that the compiler took.
        note: how many modules were replaced by fused ones.
    """

    path: Path
    inputs: Callable[[int], list[torch.Tensor]]
    expected: torch.Tensor
    seconds: float
    note: str


def keep_package(keeper: Keeper, **options: Any) -> bool:
    """Build a `PackageCase` of `options` and measure it; a batch that fails is a row, and the next one goes on."""
    case = PackageCase(**options | {"batches": tuple(options["batches"])})
    todo = [batch for batch in case.batches if not keeper.is_done(case.key(batch))]
    if not todo:
        return True
    if keeper.late:
        return False
    from exporter.errors import ExportError

    with tempfile.TemporaryDirectory(prefix="package-") as folder:
        try:
            built = build_package(case, keeper.device, Path(folder))
        except (ExportError, RuntimeError) as error:
            why = " ".join(str(error).split())[:300]
            print(f"  {case.engine}: {why}", flush=True)
            keeper.add([case.failure(batch, "failed", why) for batch in todo])
            return True
        print(f"  {case.engine}: built in {built.seconds:.0f} s; {built.note}", flush=True)
        return _measure(keeper, case, built, todo)


def build_package(case: PackageCase, device: str, folder: Path) -> Built:
    """Load the model, embed a few rows with it, rebuild the tower, put fused kernels in, trace and compile.

    Args:
        case: what to build.
        device: ``cpu`` or ``cuda``: that it is for.
        folder: for programs and package.

    Raises:
        ExportError: the compiler refused, or a block is unknown.
        RuntimeError: of PyTorch, as where a GPU has no room.
    """
    import torch

    from engines.run_aotinductor import cpu_isa
    from exporter.aotinductor.job import CompileJob, run_job
    from exporter.aotinductor.program import ProgramPlan
    from exporter.aotinductor.tower_programs import save_programs
    from exporter.build_aotinductor import inductor_options
    from exporter.precision import PRECISIONS, PrecisionPlan, apply_plan
    from exporter.stages import Stages
    from exporter.text_rules import find_text_length
    from exporter.towers import TextTower, TowerModule, image_tower, text_tower

    arch = "cpu"
    if device == "cuda":
        major, minor = torch.cuda.get_device_capability()
        arch = f"sm{major}{minor}"
    model, preprocess, rows = _model_and_rows(case, device)
    if case.blocks:
        model.visual.transformer.resblocks = model.visual.transformer.resblocks[: case.blocks]
    expected = _expected(model, case.tower, preprocess, rows[:_COMPARED])
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
    package = folder / f"{case.tower}.pt2"
    isa = cpu_isa()
    if isa is None:
        raise RuntimeError("AOTInductor builds on x86-64 processors with AVX2, and this is none")
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
        from benchmarks.gpu_facts import untuned

        swapped = untuned(arch) or swapped
    inputs = _packed if programs.packed else lambda rows: [rows.contiguous()]
    return Built(package, lambda count: inputs(rows[:count]), expected, result.build.seconds, swapped)


def _model_and_rows(case: PackageCase, device: str) -> tuple[Any, Any, Any]:
    """The model in float32 on the device, its `Preprocess`, and as many rows of input as the largest batch has."""
    import torch

    from engines.manifest import Preprocess

    torch.manual_seed(0)
    most = max(*case.batches, _COMPARED)
    if case.model == "demo":
        from exporter.source import load_source

        source = load_source("demo", None, with_tokenizer=False)
        model, preprocess = source.model.to(device), source.preprocess
    else:
        from benchmarks.contenders.eager import load_clip
        from benchmarks.subject import subject_of_model

        subject = subject_of_model(case.model)
        model, _, _ = load_clip(subject, device)
        preprocess = Preprocess(
            size=subject.size, mean=subject.mean, std=subject.std, interpolation="bicubic", resize_mode="shortest"
        )
    if case.tower == "image":
        return model, preprocess, torch.randint(0, 256, (most, *preprocess.size, 3), dtype=torch.uint8, device=device)
    from benchmarks.inputs import caption_ids
    from benchmarks.subject import subject_of_model

    ids = caption_ids(subject_of_model(case.model), most)
    return model, preprocess, torch.from_numpy(ids).to(device)


def _expected(model: Any, tower: str, preprocess: Any, rows: torch.Tensor) -> torch.Tensor:
    """(rows, D) float32 by open_clip's own model."""
    import torch

    with torch.inference_mode():
        if tower == "text":
            return model.encode_text(rows.long(), normalize=True).float().cpu()
        mean, std = (torch.tensor(values, device=rows.device) for values in (preprocess.mean, preprocess.std))
        pixels = ((rows.float() / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()
        return model.encode_image(pixels, normalize=True).float().cpu()


def _packed(ids: torch.Tensor) -> list[torch.Tensor]:
    """Captions end to end, and where each one's start is: as `engines.run_aotinductor` packs them."""
    import torch

    lengths = ids.argmax(dim=1) + 1
    kept = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
    return [ids[kept], torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)]


def _measure(keeper: Keeper, case: PackageCase, built: Built, batches: Sequence[int]) -> bool:
    import torch

    cuda = keeper.device == "cuda"
    make = torch._C._aoti.AOTIModelPackageLoader
    try:
        loader = make(str(built.path), "model", False, 1, 0 if cuda else -1)
        # Without the events of the pool of runs, whose queries are refused while a graph is recorded.
        single = make(str(built.path), "model", True, 1, 0) if cuda else None
    except RuntimeError as error:
        why = " ".join(str(error).split())[:300]
        keeper.add([case.failure(batch, "failed", why) for batch in batches])
        return True
    for batch in batches:
        if keeper.late:
            return False
        keeper.add(batch_rows(case, built, batch, loader.run, keeper.results, keeper.device))
        if single is not None:
            keeper.add(batch_rows(case, built, batch, _graph(single.run), keeper.results, keeper.device, graph=True))
    if not keeper.late:
        _keep_profile(keeper.results / PROFILE, case.engine, loader.run, built.inputs(batches[0]), cuda)
    return True


def batch_rows(
    case: PackageCase,
    built: Built,
    batch: int,
    run: Callable[[list[torch.Tensor]], Sequence[torch.Tensor]],
    results: Path,
    device: str,
    graph: bool = False,
) -> list[Row]:
    """Rows of a package at one batch; where it fails or computes something else than eager, one that says so.

    Args:
        case: what it is.
        built: its inputs and what is expected of them.
        batch: rows.
        run: inputs to embeddings, on a GPU queued on the current stream.
        results: folder of the machine's rows, with its ceilings.
        device: ``cpu`` or ``cuda``.
        graph: it is run as a CUDA graph.
    """
    import torch

    from exporter.precision import PRECISIONS

    try:
        with torch.inference_mode():
            inputs = built.inputs(batch)
            found = run(inputs)[0].float().cpu()[: len(built.expected)]
            cosine = float((found * built.expected[: len(found)]).sum(dim=1).min())
            least = PRECISIONS[case.precision].limits.min_cosine
            if not cosine >= least:
                why = f"wrong: a cosine of {cosine:.6f} with eager float32, and at least {least} is right"
                return _told(case, batch, graph, [case.failure(batch, "failed", why, graph)])
            seconds = timed(lambda: run(inputs), device, case.seconds)
    except RuntimeError as error:  # torch.OutOfMemoryError is one: the card has no room for this batch
        why = " ".join(str(error).split())[:300]
        return _told(case, batch, graph, [case.failure(batch, "failed", why, graph)])
    finally:
        if device == "cuda":
            torch.cuda.empty_cache()
    figures = {"time": estimate([1e6 * s for s in seconds]), "per_second": rates(seconds, batch)}
    flops = flops_of(case.model, case.tower) if case.tower == "image" else None
    if flops:
        figures["tflops"] = figures["per_second"].map(flops / 1e12)
        ceiling = ceiling_tflops(results, case.precision)
        if ceiling:
            figures["fraction_of_ceiling"] = figures["tflops"].map(1 / ceiling)
    one = {"min_cosine": cosine} | ({} if graph else {"build_seconds": built.seconds})
    figures |= {name: Estimate(value, value, value, 1) for name, value in one.items()}
    return _told(case, batch, graph, [_row(case, batch, graph, built, *figure) for figure in figures.items()])


def _row(case: PackageCase, batch: int, graph: bool, built: Built, figure: str, value: Estimate) -> Row:
    return Row(
        figure=figure,
        value=value.value,
        low=value.low,
        high=value.high,
        unit=FIGURES[figure].unit,
        repeats=value.repeats,
        status="noisy" if value.noisy else "ok",
        note=built.note,
        weights="random" if case.model != "demo" else "demo",
        versions=versions(("torch", "triton")),
        **case.place(batch, graph),
    )


def _told(case: PackageCase, batch: int, graph: bool, found: list[Row]) -> list[Row]:
    by_figure = {row.figure: row.value for row in found if row.value is not None}
    share = by_figure.get("fraction_of_ceiling")
    text = f"{by_figure['time'] / 1e3:,.3f} ms, {by_figure['per_second']:,.0f}/s" if by_figure else found[0].note
    text += f", {share:.1%} of the ceiling" if share else ""
    print(f"  {case.engine}{' graph' if graph else ''}, batch {batch}: {text}", flush=True)
    return found


def _graph(run: Callable[[list[torch.Tensor]], Sequence[torch.Tensor]]) -> Callable[[list[torch.Tensor]], Any]:
    """The same run, recorded at its first call and replayed from then on; the inputs must stay the same."""
    import torch

    recorded: list[tuple[Any, Sequence[torch.Tensor]]] = []

    def replay(inputs: list[torch.Tensor]) -> Sequence[torch.Tensor]:
        if not recorded:
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(_WARM_UP):
                    run(inputs)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                outputs = run(inputs)
            recorded.append((graph, outputs))
        recorded[0][0].replay()
        return recorded[0][1]

    return replay


def _keep_profile(path: Path, engine: str, run: Callable[..., Any], inputs: list[torch.Tensor], cuda: bool) -> None:
    """The kernels (on a CPU: operators) that take most of a call's time: name, milliseconds and how often in a call."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    activity, column = (
        (ProfilerActivity.CUDA, "self_device_time_total") if cuda else (ProfilerActivity.CPU, "self_cpu_time_total")
    )
    with torch.inference_mode(), profile(activities=[activity]) as seen:
        for _ in range(_PROFILED_CALLS):
            run(inputs)
        if cuda:
            torch.cuda.synchronize()
    found = [
        {
            "kernel": event.key[:120],
            "ms": round(getattr(event, column) / 1e3 / _PROFILED_CALLS, 4),
            "calls": event.count / _PROFILED_CALLS,
        }
        for event in seen.key_averages()
    ]
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    known[engine] = sorted(found, key=lambda kernel: -float(kernel["ms"]))[:_KERNELS]
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    draft.replace(path)
