"""An engine or a precision that comes later needs no change in benchmarks: its entry in the table is enough."""

from __future__ import annotations

from broken_libraries import answer_of

# Lists are made when modules are imported, so that each program adds its entry before.
LATER_KIND = """
import dataclasses
from engines.engine_kinds import KINDS
KINDS["warp"] = dataclasses.replace(KINDS["onnxruntime"], name="warp", runtime="warp.run", builder="warp.build")
KINDS["warp-rtx"] = dataclasses.replace(KINDS["tensorrt-rtx"], name="warp-rtx", builder="exporter.builders.tensorrt")
from pathlib import Path
from benchmarks.contenders import contenders_of
from benchmarks.records.rows import Row
from benchmarks.reporting import styles
from benchmarks.reporting.report_tables import sections
from benchmarks.suites.definitions import SUITES, Sweep
from benchmarks.suites.exports import export_command
from benchmarks.workloads.subject import CLIP_MEAN, CLIP_STD, Subject

def engines(suite):
    return {kind for steps in SUITES[suite].parts.values() for step in steps if isinstance(step, Sweep) for kind in step.engines}

rows = [Row("throughput", "demo", "per_second", engine=name, precision="fp32", batch=1, value=1.0) for name in ("warp", "eager")]
table = sections(rows)[0].tables[0]
subject = Subject("demo", "demo", None, (64, 64), CLIP_MEAN, CLIP_STD, 77, "bundle", ("warp",))
command = export_command(Sweep("demo", "fp16", ("warp-rtx",), (), ()), Path("work"), Path("bundle"))
answer({
    "suites": [sorted(engines(name) - set(styles.ENGINES)) for name in ("bench", "int8", "gpu")],
    "bundled": "warp" in styles.BUNDLED,
    "look": styles.look("warp").marker in {look.marker for look in styles.ENGINES.values()},
    "lines": [line[0] for line in table.lines],
    "contender": contenders_of(subject, "cpu", ["warp"])[-1].of_bundle,
    "profiles": command.count("--batch"),
})
"""

LATER_PRECISION = """
import dataclasses, sys
from engines.precisions import PRECISIONS
PRECISIONS["fp6"] = dataclasses.replace(PRECISIONS["fp16"], name="fp6", operand_bytes=0.75)
from benchmarks.contenders import contenders_of
from benchmarks.records.precisions import OPERAND_BYTES, torch_dtype
from benchmarks.reporting import charts, styles
from benchmarks.records.rows import Row
from benchmarks.workloads.subject import CLIP_MEAN, CLIP_STD, Subject
from benchmarks import cold_start, kernel_ops, zoo

def takes(module):
    try:
        module.main(["--precision", "fp6", "--help"])
    except SystemExit as stop:
        return stop.code

rows = [Row("throughput", "demo", "per_second", tower="image", engine="eager", precision="fp6", batch=8, value=1.0)]
rows += [Row("ceiling", "matmul", "tflops", precision="fp6", value=1.0), Row("ceiling", "copy", "gbytes_per_second", value=1.0)]
panel = charts.roofline_panels(rows, {("demo", "image"): charts.Work(1e9, 1e6, 1e6)})[0]
subject = Subject("demo", "demo", None, (64, 64), CLIP_MEAN, CLIP_STD, 77)
answer({
    "names": list(OPERAND_BYTES),
    "dtype": str(torch_dtype("fp6")),
    "looks": [[list(styles.dashes(name)), styles.filling(name)] for name in OPERAND_BYTES],
    "last": styles.order("eager", "fp8") < styles.order("eager", "fp6"),
    "series": [series.precision for series in panel.series],
    "contenders": "fp6" in {one.precision for one in contenders_of(subject, "cuda")},
    "commands": [takes(module) for module in (cold_start, kernel_ops, zoo)],
})
"""


def test_a_later_kind_is_in_lists_styles_and_tables() -> None:
    found = answer_of(LATER_KIND)
    assert found["suites"] == [["warp"], ["warp"], ["warp", "warp-rtx"]]
    assert found["bundled"]
    assert not found["look"], "a marker of its own, so that no plot depends on colour"
    assert found["lines"] == ["eager", "warp"]
    assert found["contender"]
    assert found["profiles"] == 2


def test_a_later_precision_is_in_lists_styles_and_commands() -> None:
    found = answer_of(LATER_PRECISION)
    assert found["names"] == ["fp32", "tf32", "fp16", "bf16", "int8", "fp8", "fp6"]
    assert found["dtype"] == "torch.float16"
    looks = [(tuple(dashes), filling) for dashes, filling in found["looks"]]
    assert len(set(looks)) == len(looks)
    assert found["last"]
    assert found["series"] == ["fp6"]
    assert found["contenders"]
    assert found["commands"] == [0, 0, 0]
