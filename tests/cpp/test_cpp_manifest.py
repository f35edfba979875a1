"""The C++ library's reading of manifests: every field, range and contradiction, each answered as the Python reader answers it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from bundle_answers import DELETED, FIGURES, engine_change, same_answer, with_value, write
from cpp_library import CppLibrary

from engines import manifest as schema
from engines.manifest import read_manifest
from engines.schema.ranges import NUMBERS

# Each is wrong in most fields, and right in some.
VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1.5,
    10**20,
    2**53 + 1,
    "",
    "é'\"\n\u2028" * 60,
    "x" * 4097,
    [],
    [1],
    {},
    {"x": 1},
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value but its root, as keys from the root on."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


def fields_of(value: Any) -> Iterator[tuple[str, Any]]:
    """Every field with a value in a manifest: ("Model.name", value)."""
    if isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            if (item := getattr(value, name)) not in (None, {}, ()):
                yield f"{type(value).__name__}.{name}", item
            yield from fields_of(item)
    elif isinstance(value, (dict, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from fields_of(item)


@pytest.mark.long
def test_every_field_of_the_schema(cpp: CppLibrary, original: Any, bundle: Path) -> None:
    """The tables of the C++ reader are those of ``engines.schema``: each field with wrong types, out of range and missing."""
    write(bundle, original)
    assert same_answer(cpp, bundle) is None
    structs = [item for item in vars(schema).values() if isinstance(item, type) and issubclass(item, msgspec.Struct)]
    known = {f"{item.__name__}.{field.name}" for item in structs for field in msgspec.structs.fields(item)}
    assert {name for name, _ in fields_of(read_manifest(bundle))} == {name for name in known if "_Version" not in name}
    refused = 0
    for index, path in enumerate(places(original)):
        if path[0] in ("files", "created_with") and len(path) > 1 and path[1] not in ("image.onnx", "torch"):
            continue  # entries that are alike
        for value in (DELETED, *VALUES[index % 2 :: 2]):
            write(bundle, with_value(original, path, value))
            refused += same_answer(cpp, bundle) is not None
    assert refused > 1000


def test_the_ends_of_every_range(cpp: CppLibrary, original: Any, bundle: Path) -> None:
    """Both ends of a number's range are allowed, and nothing beyond them."""
    write(bundle, original)
    seen = set()

    def walk(value: Any, path: tuple[Any, ...], field: str) -> None:
        if isinstance(value, msgspec.Struct):
            for name in value.__struct_fields__:
                walk(getattr(value, name), (*path, name), f"{type(value).__name__}.{name}")
        elif isinstance(value, (dict, tuple)):
            for key, item in value.items() if isinstance(value, dict) else enumerate(value):
                walk(item, (*path, key), field)
        elif isinstance(value, (int, float)) and not isinstance(value, bool) and field not in seen:
            seen.add(field)
            low, high = NUMBERS[field]
            if isinstance(value, int):
                ends: tuple[Any, ...] = (int(low) - 1, int(low), int(high), int(high) + 1)
            else:
                ends = (
                    np.nextafter(low, -np.inf).item(),
                    float(low),
                    float(high),
                    np.nextafter(high, np.inf).item(),
                    1e300,
                )
            for end in ends:
                write(bundle, with_value(original, path, end))
                same_answer(cpp, bundle)

    walk(read_manifest(bundle), (), "")
    assert seen == set(NUMBERS)


def _drop(tower: str, also_engines: bool) -> Callable[[Any], None]:
    def change(data: Any) -> None:
        del data["towers"][tower]
        if also_engines:
            data["engines"] = [engine for engine in data["engines"] if engine["tower"] != tower]

    return change


def _batch(
    low: int, opt: int | None, high: int | None, *profiles: Any, kind: str = "tensorrt"
) -> Callable[[Any], None]:
    return engine_change("text", kind=kind, batch={"min": low, "opt": opt, "max": high}, profiles=list(profiles))


def _huge(data: Any) -> None:
    data["preprocess"]["size"] = [4096, 4096]
    data["towers"]["image"]["input"]["shape"] = ["N", 4096, 4096, 3]
    sizes = {"min": 200, "opt": 200, "max": 200}
    engine_change("image", kind="tensorrt", batch=sizes, profiles=[{"batch": sizes}])(data)


TWO = {"min": 2, "opt": 2, "max": 2}


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.update(towers={}, tokenizer=None),
        lambda data: data.update(tokenizer=None),
        _drop("text", True),
        _drop("image", False),
        lambda data: data["model"].update(logit_scale=0),
        lambda data: data["towers"]["image"]["output"].update(dtype="int32"),
        lambda data: data["towers"]["text"]["output"].update(shape=["N", 3]),
        lambda data: data["towers"]["image"]["input"].update(shape=["N", 3, 3, 3]),
        lambda data: data["towers"]["image"]["input"].update(dtype="int32"),
        lambda data: data["towers"]["image"].update(length=data["towers"]["text"]["length"]),
        lambda data: data["towers"]["text"].pop("length"),
        lambda data: data["towers"]["text"]["length"].update(max=76),
        lambda data: data["towers"]["text"]["length"].update(min=78),
        lambda data: data["towers"]["text"]["length"].update(pad_id=2**31 - 1),
        lambda data: (
            data["towers"]["text"]["length"].update(min=1)
            or data["towers"]["text"]["input"].update(shape=["N", data["tokenizer"]["context_length"]])
        ),
        lambda data: data["towers"]["text"]["input"].update(shape=["N", 76]),
        lambda data: data["towers"]["text"]["input"].update(shape=[1, "L"]),
        lambda data: data["towers"]["text"]["input"].update(shape=[]),
        lambda data: data["tokenizer"].update(pad_id=2**31 - 1),
        lambda data: data["tokenizer"].update(last_id=data["tokenizer"]["vocab_size"]),
        _batch(1, None, None),
        _batch(2, 1, None),
        _batch(1, 3, 2),
        _batch(1, 2, None, kind="later"),
        _batch(2, 2, 2),
        _batch(2, 2, 2, {"batch": TWO}),
        _batch(2, 2, 2, {"batch": TWO}, kind="onnxruntime"),
        _batch(2, 2, 2, {"batch": TWO}, kind="aotinductor"),
        _batch(2, 2, 2, {"batch": TWO | {"max": 3}}),
        _batch(2, 2, 2, {"batch": TWO | {"opt": 1}}),
        _batch(1, 2, 2, {"batch": TWO, "length": {"min": 1, "opt": 1, "max": 78}}),
        engine_change("image", profiles=[{"batch": {"min": 1, "opt": 1, "max": 1}, "length": TWO}]),
        engine_change("text", input_layout="packed"),
        engine_change("text", input_layout="packed", kind="aotinductor"),
        engine_change("image", input_layout="packed", kind="aotinductor"),
        _huge,
        lambda data: data["accuracy"][0].update(eager={}),
        lambda data: data["accuracy"][0]["change"].update({"it's\n" * 60: FIGURES["top1"]}),
    ],
)
def test_fields_that_contradict(change: Callable[[Any], object], cpp: CppLibrary, original: Any, bundle: Path) -> None:
    data = copy.deepcopy(original)
    change(data)
    write(bundle, data)
    same_answer(cpp, bundle)
