"""Checks of callers' arguments: numbers, texts, labels, ids and pixels in every sensible form; others raise an InputError."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from numbers import Integral
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from engines.errors import InputError

Template: TypeAlias = "str | Callable[[str], str]"


def whole_number(name: str, value: object, least: int, what: str = "") -> int:
    """A caller's option, a whole number of Python or NumPy, as an int.

    Args:
        name: the option's name, for the message.
        value: the caller's value.
        least: the smallest allowed value.
        what: the unit or meaning, for the message.

    Raises:
        InputError: the value is no whole number, or is smaller than `least`.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
        raise InputError(f"{name} is {value!r}: pass a whole number{what and ' ' + what}, {least} or more")
    return int(value)


def is_array(value: object) -> bool:
    """Whether a value is an array of numbers: numpy's, or an array with DLPack. An array of str is not."""
    if isinstance(value, np.ndarray):
        return value.dtype.kind not in "OSUT"
    return hasattr(value, "__dlpack__")


def each_text(texts: object, name: str = "texts") -> Iterator[str]:
    """The texts of a list, tuple, set, generator, numpy array or table column, one after the other.

    Args:
        texts: the caller's value.
        name: the argument's name, for messages.

    Raises:
        InputError: the value is one str, bytes or a mapping instead of a list; or an element is not a str, when it is reached.
    """
    if isinstance(texts, str):
        raise InputError(f"{name} must be a list of str; for one text pass a list of one")
    if isinstance(texts, np.ndarray) and texts.ndim != 1:
        raise InputError(f"{name} must be a list of str, not an array of {texts.ndim} dimensions")
    items = None if isinstance(texts, (bytes, bytearray, Mapping)) else iterable(texts)
    if items is None:
        raise InputError(f"{name} must be a list of str, not {_type(texts)}")
    return _checked_texts(items, name)


def iterable(value: Any) -> Iterable[Any] | None:
    """The value, if a ``for`` loop can iterate over it: a list, a generator, a data set with only ``__getitem__``; else None."""
    try:
        iter(value)
    except TypeError:
        return None
    items: Iterable[Any] = value
    return items


def _checked_texts(texts: Iterable[object], name: str) -> Iterator[str]:
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            remedy = "; decode it: text.decode()" if isinstance(text, (bytes, bytearray)) else ""
            raise InputError(f"{name}[{index}] is {_type(text)}; every text must be a str{remedy}")
        yield str(text)


def in_chunks(items: Iterator[str], size: int) -> Iterator[list[str]]:
    """Consecutive lists of `size` items; the last list may be shorter."""
    while chunk := list(itertools.islice(items, size)):
        yield chunk


def label_prompts(labels: object, templates: object) -> tuple[list[str], int, int]:
    """The prompts of zero-shot classification, label by label, with the number of labels and of templates.

    Args:
        labels: class names or captions.
        templates: prompts with ``{}`` in the place of the label, or functions of the label, like open_clip's own templates.

    Raises:
        InputError: there is no label or no template, or a label or template has another type.
    """
    names = list(each_text(labels, "labels"))
    if not names:
        raise InputError("there is no label: labels must be a list of at least one str")
    writers = _writers(templates)
    prompts = []
    for label in names:
        for index, write in enumerate(writers):
            try:
                prompt = write(label)
            except Exception as error:  # the caller's function may raise anything
                raise InputError(f"templates[{index}] failed on the label {label!r}: {error!r}") from error
            if not isinstance(prompt, str):
                raise InputError(f"templates[{index}] gives {_type(prompt)} for the label {label!r}, and not a str")
            prompts.append(prompt)
    return prompts, len(names), len(writers)


def _writers(templates: object) -> list[Callable[[str], object]]:
    wanted = "templates must be a list of str, each with {} in the place of the label, or of functions of the label"
    items = None if isinstance(templates, (str, bytes, bytearray, Mapping)) else iterable(templates)
    if items is None:
        raise InputError(f"{wanted}, not {_type(templates)}")
    writers: list[Callable[[str], object]] = []
    for index, template in enumerate(items):
        if isinstance(template, str) and "{}" in template:
            writers.append(_Filled(template))
        elif callable(template):
            writers.append(template)
        else:
            given = repr(template) if isinstance(template, str) else _type(template)
            raise InputError(f"{wanted}: templates[{index}] is {given}")
    if not writers:
        raise InputError(f"there is no template: {wanted}")
    return writers


class _Filled:
    """A template that puts a label in the place of ``{}``; other text in braces stays."""

    def __init__(self, template: str) -> None:
        self._template = template

    def __call__(self, label: str) -> str:
        return self._template.replace("{}", label)


def check_embeddings(name: str, value: object, width: int) -> npt.NDArray[np.float32]:
    """A caller's embeddings as float32, (N, D) with N at least 1.

    Raises:
        InputError: the value has another shape, or is not of numbers.
    """
    try:
        array = np.asarray(value, dtype=np.float32)
    except (
        TypeError,
        ValueError,
        OverflowError,
        RuntimeError,
    ) as error:  # the last one: a tensor that needs its gradient
        raise InputError(f"{name} must be numbers (N, {width}), not {_type(value)}") from error
    if array.ndim != 2 or array.shape[1] != width or not len(array):
        raise InputError(f"{name} must be (N, {width}) with at least one row, not {array.shape}")
    return array


def check_pixels(pixels: npt.NDArray[Any], size: tuple[int, int]) -> None:
    """Check pixels that are resized and cropped already.

    Raises:
        InputError: the pixels are not uint8 (N, H, W, 3) of the model's size, or N is 0.
    """
    expected = (*size, 3)
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != expected:
        raise InputError(
            f"pixels must be uint8 (N, {', '.join(map(str, expected))}), not {pixels.dtype} {pixels.shape}; "
            "pass a list of images to have them resized and cropped"
        )
    if not len(pixels):
        raise InputError("there is no image: pass at least one")


def check_ids(ids: npt.NDArray[Any], context_length: int, vocab_size: int) -> npt.NDArray[np.int32]:
    """Token ids (N, L) as int32.

    Raises:
        InputError: the ids have another shape or dtype, rows are too long, there is no row, or an id is outside the vocabulary.
    """
    if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer):
        raise InputError(f"ids must be integers (N, L), not {ids.dtype} {ids.shape}")
    if not ids.size:
        raise InputError("there is no text: pass at least one row of ids")
    if ids.shape[1] > context_length:
        raise InputError(f"ids are {ids.shape[1]} long, the model takes at most {context_length}")
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= vocab_size:
        wrong = low if low < 0 else high
        raise InputError(f"token id {wrong} is outside the vocabulary, 0 to {vocab_size - 1}")
    return ids.astype(np.int32, copy=False)


def _type(value: object) -> str:
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
