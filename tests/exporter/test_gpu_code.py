"""Code generation for sm_80 and sm_90 without a GPU: whole towers through the exporter's own compiling worker.

`pretended_gpu` says what is real in it: all but the card and, at the end, the C++ compiler. By default each tower goes once to
one of the architectures, in bfloat16 to sm_80 and in float16 to sm_90; the rest is marked slow.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import zipfile
from collections import Counter
from functools import partial
from pathlib import Path

import msgspec
import pytest
import torch
from made_once import made_once
from pretended_gpu.cases import ROWS, Case
from pretended_gpu.code import ATTENTIONS, CALLS, EFFICIENT, OWN, PRODUCTS, GeneratedCode
from pretended_gpu.sass import doubles, instructions
from pretended_gpu.worker import Findings, Job, Made

from exporter.aotinductor.gpu_needs import cuda_home
from exporter.aotinductor.job import compiler
from exporter.child_process import Child

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(torch.version.cuda is None, reason="this PyTorch was built without CUDA"),
]

ROOT = Path(__file__).parents[2]
ARCHS = ("sm80", "sm90")
TOWERS = (
    ("ViT-L-14", "image"),
    ("ViT-L-14", "text"),
    ("ViT-L-14", "packed"),
    ("EVA02-B-16", "image"),
    ("coca_ViT-B-32", "image"),
    ("roberta-ViT-B-32", "text"),
)
# Those that sm_80 takes by default; sm_90 takes the others. Both get ViT-L-14's image tower with a table of choices, too.
ON_SM80 = TOWERS[0], TOWERS[2], TOWERS[4]


def _case(family: str, tower: str, precision: str, kernels: str = "triton", wins: tuple[str, ...] = ()) -> Case:
    fields = {"family": family, "tower": tower, "precision": precision, "kernels": kernels, "wins": wins}
    return msgspec.convert(fields, Case)


def _usual(arch: str) -> list[Case]:
    """Every tower in one precision, one with quantized products, and what else a table of choices may say."""
    half, quantized = {"sm80": ("bf16", "int8"), "sm90": ("fp16", "fp8")}[arch]
    cases = [_case(*tower, half) for tower in TOWERS if (tower in ON_SM80) == (arch == "sm80")]
    cases.append(_case("ViT-L-14", "text", quantized, "native"))
    if arch == "sm90":
        cases.append(_case("ViT-L-14", "image", half, "auto", ("cudnn", "linear_gelu tma", "normalize_image")))
        cases.append(_case("ViT-L-14", "packed", half, "auto", ("flash", "bias_gelu")))
    else:
        cases.append(_case("ViT-L-14", "image", half, "auto", ("flash", "linear_gelu cublaslt", "triton")))
    return _by_family(cases)


def _rest(arch: str) -> list[Case]:
    """The other towers and precisions, PyTorch's own kernels alone, other head sizes, and towers of convolutions."""
    half, usual, quantized = {"sm80": ("fp16", "bf16", ("int8",)), "sm90": ("bf16", "fp16", ("int8", "fp8"))}[arch]
    cases = [_case(*tower, half) for tower in TOWERS]
    cases += [_case(*tower, usual) for tower in TOWERS if (tower in ON_SM80) != (arch == "sm80")]
    cases += [_case(family, tower, "fp16", "native") for family, tower in TOWERS if tower != "packed"]
    cases += [_case("ViT-L-14", "image", precision, "native") for precision in quantized]
    cases += [_case("coca_ViT-B-32", "text", "fp16"), _case("roberta-ViT-B-32", "image", "fp16")]
    for family in ("ViT-B-32-quickgelu", "ViT-H-14", "ViT-g-14"):
        cases += [_case(family, "image", "fp16"), _case(family, "packed", "fp16")]
    cases += [_case(family, "image", "fp16") for family in ("EVA01-g-14", "EVA02-E-14", "convnext_base_w", "RN50")]
    return _by_family(cases)


def _by_family(cases: list[Case]) -> list[Case]:
    """One family after the other, because its model is made once."""
    return sorted(cases, key=lambda case: case.family)


CASES = {"usual": {arch: _usual(arch) for arch in ARCHS}, "rest": {arch: _rest(arch) for arch in ARCHS}}
NUMBERLESS = msgspec.structs.replace(_case("ViT-L-14", "image", "fp16"), device="cuda")
CASES["usual"]["sm90"].append(NUMBERLESS)

each_case = pytest.mark.parametrize(
    ("which", "arch", "number"),
    [
        pytest.param(which, arch, number, id=f"{arch}-{case.name}", marks=[pytest.mark.slow] * (which == "rest"))
        for which, of_archs in CASES.items()
        for arch, cases in of_archs.items()
        for number, case in enumerate(cases)
        if case is not NUMBERLESS
    ],
)


def _make(which: str, folder: Path) -> None:
    """Make the cases' packages, both architectures side by side."""
    folder.mkdir()
    with contextlib.ExitStack() as stack:
        children = {arch: stack.enter_context(_child(arch, CASES[which][arch], folder)) for arch in ARCHS}
        for arch, child in children.items():
            (folder / f"{arch}.json").write_bytes(msgspec.json.encode(child.wait()))


def _child(arch: str, cases: list[Case], folder: Path, link: bool = False, **environment: str) -> Child[Findings]:
    """A process that makes packages under ``folder/arch`` and keeps its compilers' caches in `folder`."""
    (folder / arch).mkdir()
    environment |= {"TORCHINDUCTOR_CACHE_DIR": str(folder / "cache"), "OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "0"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT / "tests"), prepend=os.pathsep)
        job = Job(arch=arch, cases=tuple(cases), folder=str(folder / arch), link=link)
        return Child("pretended_gpu.worker", job, Findings, environment)


def _read(shared: Path, which: str, arch: str) -> Findings:
    folder = made_once(shared, f"gpu-code-{which}", partial(_make, which))
    return msgspec.json.decode((folder / f"{arch}.json").read_bytes(), type=Findings)


def _made(shared: Path, which: str, arch: str, number: int) -> tuple[Made, GeneratedCode]:
    made = _read(shared, which, arch).made[number]
    assert made.problem is None, f"{arch} {made.case.name}: {made.problem}"
    return made, GeneratedCode(Path(made.package))


@each_case
def test_kernels_are_called_as_often_as_they_were_swapped_in(shared: Path, which: str, arch: str, number: int) -> None:
    made, code = _made(shared, which, arch, number)
    assert made.build is not None
    expected: Counter[str] = Counter()
    for name in {*CALLS, *made.swapped}:
        expected[CALLS.get(name, rf"call__{name}_kernel_\d+")] += made.swapped.get(name, 0)
    expected[OWN] = sum(count for pattern, count in expected.items() if pattern.startswith("call__"))
    # What stays PyTorch's own, such as the first token's attention, is a vendor's kernel too.
    own = sum(count for name, count in made.swapped.items() if "attention" in name)
    others = made.build.fused_attention + made.build.decomposed_attention - own
    expected[CALLS["attention flash"]] += others - code.count(EFFICIENT)
    assert {pattern: code.count(pattern) for pattern in expected} == dict(expected)
    assert sum(made.swapped.values()) > 0 or made.case.kernels == "native"


@each_case
def test_the_build_counts_every_attention(shared: Path, which: str, arch: str, number: int) -> None:
    made, code = _made(shared, which, arch, number)
    assert made.build is not None
    assert (made.build.fused_attention, made.build.decomposed_attention) == (code.count(ATTENTIONS), 0)


@each_case
def test_no_q_k_or_v_is_copied(shared: Path, which: str, arch: str, number: int) -> None:
    made, code = _made(shared, which, arch, number)
    assert code.copies() == []
    inputs = code.attention_inputs()
    direct = [name for name, origins in inputs if len(origins) == 1 and re.fullmatch(PRODUCTS, origins[0])]
    for kernel, count in made.swapped.items():
        if "attention" in kernel:
            assert sum(re.fullmatch(CALLS[kernel], name) is not None for name in direct) == count, inputs


@each_case
def test_scratch_is_enough_for_the_grid(shared: Path, which: str, arch: str, number: int) -> None:
    made, code = _made(shared, which, arch, number)
    problems = [launch.problem(made.scratch[launch.kernel]) for launch in code.launches]
    assert [problem for problem in problems if problem] == []


@each_case
def test_batches_begin_at_one(shared: Path, which: str, arch: str, number: int) -> None:
    made, code = _made(shared, which, arch, number)
    assert code.lower_bounds() == []
    assert code.upper_bounds(), f"{made.case.name}: no input is checked against the largest batch"
    # The example batch is a prime: where one of its multiples stands, something was fixed that varies.
    assert code.fixed_multiples(ROWS) == []


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("which", ["usual", pytest.param("rest", marks=pytest.mark.slow)])
def test_no_kernel_computes_in_double_precision(shared: Path, which: str, arch: str) -> None:
    cubins: dict[str, bytes] = {}
    for number, case in enumerate(CASES[which][arch]):
        if case.device is None:
            made, code = _made(shared, which, arch, number)
            cubins |= {
                f"{made.case.name} {name}": cubin for name, cubin in code.cubins.items() if cubin not in cubins.values()
            }
    assert len(cubins) > 20
    bad = {name: doubles(listing) for name, listing in instructions(cubins, arch).items()}
    assert {name: found for name, found in bad.items() if found} == {}


def test_a_device_without_its_number_is_refused(shared: Path) -> None:
    """Why the exporter moves programs to ``cuda:0``; should PyTorch take ``cuda`` one day, this test tells."""
    made = _read(shared, "usual", "sm90").made[CASES["usual"]["sm90"].index(NUMBERLESS)]
    assert made.problem is not None
    assert "Expected: cuda, Got: cuda:0" in made.problem


@pytest.mark.slow
@pytest.mark.skipif(cuda_home() is None, reason="CUDA's headers are not installed")
def test_the_code_compiles_and_links(tmp_path: Path) -> None:
    """With the real compiler and CUDA's real headers; an empty library stands for the driver's."""
    library = tmp_path / "lib" / "libcuda.so"
    library.parent.mkdir()
    subprocess.run([compiler(), "-shared", "-x", "c++", os.devnull, "-o", str(library)], check=True)
    case = _case("ViT-L-14", "image", "fp16", "auto", ("cudnn", "linear_gelu tma", "normalize_image"))
    environment = {"CUDA_HOME": str(cuda_home()), "LIBRARY_PATH": str(library.parent)}
    with _child("sm90", [case], tmp_path, link=True, **environment) as child:
        (made,) = child.wait().made
    assert made.problem is None
    with zipfile.ZipFile(made.package) as package:
        (name,) = [name for name in package.namelist() if name.endswith(".so")]
        linked = package.read(name)
    assert linked.startswith(b"\x7fELF")
    assert b"AOTInductorModelContainerRun" in linked
