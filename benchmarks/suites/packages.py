"""Single AOTInductor packages of a tower, as the exporter makes them: built, compared with eager float32, timed and profiled.

The rest of a bundle (the ONNX graph, the gate's samples, other engines) is left out, because minutes count on a GPU.
A package is timed as it is and as a CUDA graph, which shows the cost of launching its kernels.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness.case_rows import row_of
from benchmarks.harness.timing import timed
from benchmarks.records.estimates import Estimate, estimate, rates
from benchmarks.records.flops_and_ceilings import ceiling_tflops, flops_of
from benchmarks.records.machine import versions
from benchmarks.records.rows import Row
from benchmarks.suites.package_build import Built, PackageCase, build_package

if TYPE_CHECKING:
    import torch

    from benchmarks.harness.keeper import Keeper

PROFILE = "profile.json"
_KERNELS = 25  # most kernels that a profile keeps
_PROFILED_CALLS = 3
_WARM_UP = 3


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
        keeper.add(eager_rows(case, built, keeper.results))
        return _measure(keeper, case, built, todo)


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
        _keep_profile(
            keeper.results / PROFILE,
            f"{case.model} {case.tower}, {case.engine}",
            loader.run,
            built.inputs(batches[0]),
            cuda,
        )
    return True


def eager_rows(case: PackageCase, built: Built, results: Path) -> list[Row]:
    """Rows of open_clip's own model, which was timed in the package's process; speedups are over it in float32."""
    found = []
    for (precision, batch), seconds in built.eager.items():
        place = case.place(batch, eager=precision)
        if isinstance(seconds, str):
            found.append(Row(figure="per_second", unit="1/s", status="failed", note=seconds, **place))
            continue
        figures = _figures(case, precision, batch, seconds, results)
        first = built.eager.get(("fp32", batch))
        if precision != "fp32" and first is not None and not isinstance(first, str):
            figures["speedup"] = _over(first, seconds)
        found += [_row(case, place, "", *figure) for figure in figures.items()]
        rate = figures["per_second"].value
        print(f"  eager {precision}, batch {batch}: {1e3 * batch / rate:,.3f} ms, {rate:,.0f}/s", flush=True)
    return found


def _figures(
    case: PackageCase, precision: str, batch: int, seconds: Sequence[float], results: Path
) -> dict[str, Estimate]:
    """Time, rate, and the rate in FLOP/s and as a share of the machine's ceiling."""
    figures = {"time": estimate([1e6 * s for s in seconds]), "per_second": rates(seconds, batch)}
    flops = flops_of(case.model, case.tower) if case.tower == "image" else None
    if flops:
        figures["tflops"] = figures["per_second"].map(flops / 1e12)
        ceiling = ceiling_tflops(results, precision)
        if ceiling:
            figures["fraction_of_ceiling"] = figures["tflops"].map(1 / ceiling)
    return figures


def _over(baseline: Sequence[float], seconds: Sequence[float]) -> Estimate:
    """The speedup over the baseline, as the ratio of both medians, because they were not measured in turns."""
    ratio = estimate(list(baseline)).value / estimate(list(seconds)).value
    return Estimate(ratio, ratio, ratio, min(len(baseline), len(seconds)))


def batch_rows(
    case: PackageCase,
    built: Built,
    batch: int,
    run: Callable[[list[torch.Tensor]], Sequence[torch.Tensor]],
    results: Path,
    device: str,
    graph: bool = False,
) -> list[Row]:
    """Rows of a package at one batch; one row with the reason where it fails, or where its embeddings are not eager's.

    Args:
        case: the package.
        built: its inputs and eager's embeddings of them.
        batch: number of rows.
        run: a function from inputs to embeddings, on a GPU queued on the current stream.
        results: folder of the machine's rows, with its ceilings.
        device: ``cpu`` or ``cuda``.
        graph: whether it runs as a CUDA graph.
    """
    import torch

    from exporter.precision.precisions import PRECISIONS

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
    figures = _figures(case, case.precision, batch, seconds, results)
    first = built.eager.get(("fp32", batch))
    if first is not None and not isinstance(first, str):
        figures["speedup"] = _over(first, seconds)
    one = {"min_cosine": cosine} | ({} if graph else {"build_seconds": built.seconds})
    figures |= {name: Estimate(value, value, value, 1) for name, value in one.items()}
    made = [_row(case, case.place(batch, graph), built.note, *figure) for figure in figures.items()]
    return _told(case, batch, graph, made)


def _row(case: PackageCase, place: dict[str, Any], note: str, figure: str, value: Estimate) -> Row:
    weights = "random" if case.model != "demo" else "demo"
    return row_of(figure, value, note=note, weights=weights, versions=versions(("torch", "triton")), **place)


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
            graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
            try:
                with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                    outputs = run(inputs)
            finally:
                torch.cuda.set_stream(before)  # a capture that is broken off leaves its own stream the current one
            recorded.append((graph, outputs))
        recorded[0][0].replay()
        return recorded[0][1]

    return replay


def _keep_profile(path: Path, name: str, run: Callable[..., Any], inputs: list[torch.Tensor], cuda: bool) -> None:
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
    known[name] = sorted(found, key=lambda kernel: -float(kernel["ms"]))[:_KERNELS]
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    draft.replace(path)
