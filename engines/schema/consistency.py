"""Rules between the fields of a manifest; the section "Ranges" of ``engines/FORMAT.md`` has them in words."""

from __future__ import annotations

from collections.abc import Iterator

from engines.engine_kinds import KINDS
from engines.schema.engine_entries import Engine, Profile, Range
from engines.schema.structs import Manifest, Tensor, TextLength, Tower

_MOST_RUN_BYTES = 8 << 30  # limit of the rows in an engine's smallest run; fewer rows are filled up to that run
_NUMBER_BYTES = {"uint8": 1, "int32": 4, "float32": 4}


def contradiction(manifest: Manifest) -> str | None:
    """The first contradiction between fields, in words; None if there is none. Every field must be within its range already."""
    return next(_contradictions(manifest), None)


def _contradictions(manifest: Manifest) -> Iterator[str]:
    if not manifest.towers:
        yield "towers is empty: a bundle has an image or a text tower"
    if (manifest.tokenizer is None) == ("text" in manifest.towers):
        yield "tokenizer must be there exactly where there is a text tower"
    if manifest.model.logit_scale == 0:
        yield "model.logit_scale is 0: it must be larger"
    for name, tower in manifest.towers.items():
        yield from _output(manifest, name, tower)
    if "image" in manifest.towers:
        yield from _image(manifest, manifest.towers["image"])
    if "text" in manifest.towers and manifest.tokenizer is not None:
        yield from _text(manifest, manifest.towers["text"])
    for index, engine in enumerate(manifest.engines):
        yield from (f"engines[{index}]{problem}" for problem in _engine(manifest, engine))
    for index, row in enumerate(manifest.accuracy):
        missing = sorted(set(row.change) - (set(row.eager) & set(row.figures)))
        if missing:
            yield f"accuracy[{index}].change has {missing[0][:100]!r}, which eager and figures have not both"


def _output(manifest: Manifest, name: str, tower: Tower) -> Iterator[str]:
    shape, dim = tower.output.shape, manifest.model.embed_dim
    if tower.output.dtype != "float32" or len(shape) != 2 or not isinstance(shape[0], str) or shape[1] != dim:
        yield f"towers.{name}.output must be float32 of shape (N, {dim}), as model.embed_dim says"


def _image(manifest: Manifest, tower: Tower) -> Iterator[str]:
    height, width = manifest.preprocess.size
    sizes = {"uint8": (height, width, 3), "float32": (3, height, width)}.get(tower.input.dtype)
    if tower.length is not None:
        yield "towers.image.length is given: only text towers have one"
    if sizes is None or not _rows_of(tower.input, sizes):
        yield (
            f"towers.image.input must be uint8 of shape (N, {height}, {width}, 3) or float32 of shape (N, 3, {height}, {width}), "
            "as preprocess.size says"
        )


def _text(manifest: Manifest, tower: Tower) -> Iterator[str]:
    tokenizer, length = manifest.tokenizer, tower.length
    assert tokenizer is not None
    if length is None:
        yield "towers.text.length is missing: a text tower has one"
        return
    if not length.min <= length.max == tokenizer.context_length:
        yield (
            f"towers.text.length has min {length.min} and max {length.max}: max must be the tokenizer's context_length, "
            f"{tokenizer.context_length}, because a caption that is cut before its end has another embedding, and min at most that"
        )
    if tower.input.dtype != "int32" or not (_rows_of(tower.input, (None,)) or _rows_of(tower.input, (length.max,))):
        yield "towers.text.input must be int32 of shape (N, L), where L is a name or towers.text.length.max"
    elif isinstance(tower.input.shape[1], int) and length.min != length.max:
        yield "towers.text.length must have equal min and max where the input's length is a number"
    yield from _ids(manifest, length)


def _ids(manifest: Manifest, length: TextLength) -> Iterator[str]:
    tokenizer = manifest.tokenizer
    assert tokenizer is not None
    ids = {
        "tokenizer.pad_id": tokenizer.pad_id,
        "tokenizer.last_id": tokenizer.last_id,
        "towers.text.length.pad_id": length.pad_id,
    }
    for place, value in ids.items():
        if value is not None and value >= tokenizer.vocab_size:
            yield f"{place} is {value}: it must be less than tokenizer.vocab_size, {tokenizer.vocab_size}"


def _rows_of(tensor: Tensor, sizes: tuple[int | None, ...]) -> bool:
    """Whether a tensor's shape is a name and then these sizes; a size of None stands for any name."""
    first, *rest = tensor.shape or (0,)
    fits = (
        isinstance(actual, str) if size is None else actual == size for actual, size in zip(rest, sizes, strict=False)
    )
    return isinstance(first, str) and len(rest) == len(sizes) and all(fits)


def _engine(manifest: Manifest, engine: Engine) -> Iterator[str]:
    batch = engine.batch
    tower = manifest.towers.get(engine.tower)
    if tower is None:
        yield f".tower is {engine.tower}, which the bundle has not"
        return
    most = batch.max if batch.max is not None else max(batch.min, batch.opt or 1)
    if not batch.min <= (batch.opt if batch.opt is not None else batch.min) <= most:
        yield f".batch must be ordered, min <= opt <= max, not {batch.min}, {batch.opt}, {batch.max}"
    kind = KINDS.get(engine.kind)
    if batch.min > 1 and ((kind is not None and kind.any_batch) or not engine.profiles):
        yield f".batch.min is {batch.min}: only an engine that is built for some batches (profiles) has another least batch than 1"
    row = _NUMBER_BYTES[tower.input.dtype]
    for size in tower.input.shape[1:]:
        row *= size if isinstance(size, int) else (tower.length.max if tower.length is not None else 1)
    if batch.min * row > _MOST_RUN_BYTES:
        yield f".batch.min is {batch.min}: so many rows take more than {_MOST_RUN_BYTES} bytes"
    for index, profile in enumerate(engine.profiles):
        yield from (f".profiles[{index}]{problem}" for problem in _profile(engine, profile, tower))
    if engine.input_layout == "packed" and not (kind is not None and kind.packs_captions and engine.tower == "text"):
        yield ".input_layout is packed: only aotinductor's text engines are"


def _profile(engine: Engine, profile: Profile, tower: Tower) -> Iterator[str]:
    batch, length = engine.batch, profile.length
    if (
        not _ordered(profile.batch)
        or profile.batch.min < batch.min
        or profile.batch.max > (batch.max or profile.batch.max)
    ):
        yield ".batch must be ordered, min <= opt <= max, and within the engine's batch"
    if length is not None and (
        tower.length is None or not _ordered(length) or length.min < tower.length.min or length.max > tower.length.max
    ):
        yield ".length must be ordered, min <= opt <= max, within the tower's length, and is for text towers only"


def _ordered(sizes: Range) -> bool:
    return sizes.min <= sizes.opt <= sizes.max
