"""Shallow towers of real widths and head sizes as exported programs, by the exporter's own steps."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch
from shallow import register

from engines.manifest import TextLength
from exporter.aotinductor import tower_programs
from exporter.aotinductor.program import ProgramPlan
from exporter.aotinductor.tower_programs import save_programs
from exporter.graphs.onnx_graph import example_input
from exporter.precision.precisions import PrecisionPlan, apply_plan
from exporter.quantization.layers import quantized
from exporter.quantization.products import use_products
from exporter.quantization.sites import find_sites
from exporter.source.loading import Source, load_source
from exporter.stages import Stages
from exporter.towers.modules import TowerModule, image_tower, text_tower
from kernels import swap
from kernels.choices import NATIVE

# Example and largest batch. Primes: where one of their multiples stands in the code, something was fixed that should vary.
ROWS, MOST = 53, 211
_TOKENS = 9

_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "int8": torch.int8, "fp8": torch.float8_e4m3fn}


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One package.

    Attributes:
        family: open_clip's name of the architecture.
        tower: ``packed`` is the text tower over packed captions.
        precision: ``int8`` and ``fp8`` are products within a float16 tower.
        kernels: as ``--kernels``; ``auto`` with what `wins`.
        wins: implementations that are the fastest of the table of choices, wherever they are allowed, the first one first.
        device: where the program is moved to, if not where the exporter moves it.
    """

    family: str
    tower: Literal["image", "text", "packed"]
    precision: Literal["fp16", "bf16", "int8", "fp8"]
    kernels: Literal["auto", "triton", "native"] = "triton"
    wins: tuple[str, ...] = ()
    device: str | None = None

    @property
    def name(self) -> str:
        """For people and files."""
        parts = [self.family, self.tower, self.precision, self.kernels, *self.wins, *filter(None, [self.device])]
        return "-".join(parts).replace(" ", "-")


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """A program on disk, and what was swapped in it: kernel -> how many modules; of quantized towers precision -> products."""

    path: str
    swapped: dict[str, int]


class Programs:
    """Makes programs; models are loaded once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._sources: dict[str, Source] = {}
        self._made: dict[str, dict[str, Program]] = {}

    def make(self, case: Case, arch: str) -> Program:
        """The program of one case for ``sm80`` or ``sm90``; a text tower's two programs are made together."""
        key = (
            f"{case.family}-{'image' if case.tower == 'image' else 'text'}-{case.precision}-{case.kernels}-{case.wins}"
        )
        if key not in self._made:
            with _table(case.wins):
                self._made[key] = self._make(case, arch, self.folder / key.replace(" ", "-"))
        return self._made[key][case.tower]

    def _make(self, case: Case, arch: str, folder: Path) -> dict[str, Program]:
        source = self._source(case.family)
        # A copy, because a tower may take its parts out of the model, and the next case begins from the same model.
        model: Any = copy.deepcopy(source.model)
        image = case.tower == "image"
        tower = image_tower(model, source.preprocess) if image else text_tower(model)
        example = example_input(tower, source.preprocess.size, _TOKENS)
        products = _convert(tower, case)
        folder.mkdir()
        stages = Stages()
        plan = ProgramPlan(folder, ROWS, MOST, case.kernels, arch, padded_for_cpu=True)
        made = save_programs("image" if image else "text", tower, example, _length(case), case.precision, plan, stages)
        paths = {"image" if image else "text": made.padded, "packed": made.packed}
        stage = {"image": "program", "text": "program", "packed": "packed program"}
        return {
            kind: Program(
                path=str(path),
                swapped=next(row["swapped"] for row in stages.rows if row["stage"].startswith(f"{stage[kind]} of"))
                | ({case.precision: products} if products else {}),
            )
            for kind, path in paths.items()
            if path is not None
        }

    def _source(self, family: str) -> Source:
        if family not in self._sources:
            name = register(family, self.folder)
            self._sources = {family: load_source(name, "none", with_tokenizer=False)}  # one at a time stays in memory
        return self._sources[family]


@contextlib.contextmanager
def _table(wins: tuple[str, ...]) -> Iterator[None]:
    """As if the table of choices had rows in which these win."""

    def choose(op: str, arch: str, dtype: object, shape: object, allowed: Collection[str]) -> str:
        return next((name for name in wins if name in allowed), NATIVE)

    before = swap.choose, tower_programs.choose
    if wins:
        swap.choose = tower_programs.choose = choose  # type: ignore[assignment]
    try:
        yield
    finally:
        swap.choose, tower_programs.choose = before


def _convert(tower: TowerModule, case: Case) -> int:
    """As an export does; returns how many products are quantized.

    Ranges of quantized layers are made up, because only shapes and dtypes reach generated code.
    """
    dtype = _DTYPES[case.precision]
    is_product = case.precision in ("int8", "fp8")
    if is_product:
        for site in find_sites(tower):
            layer = quantized(site.layer, dtype, 4.0)
            site.put(layer)
            layer.settle()
    half = torch.float16 if is_product else dtype
    apply_plan(tower, PrecisionPlan(half, half))
    return use_products(tower) if is_product else 0


def _length(case: Case) -> TextLength | None:
    if case.tower == "image":
        return None
    # CoCa appends a token of its own to the ids.
    return TextLength(keep="end", extra=0, min=2, max=76 if "coca" in case.family else 77)
