"""Options that are described once: a dataclass field holds default, flag and help, and fields make the command line."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from exporter.errors import ExportError

_FLAG = "flag"
_T = TypeVar("_T")


@dataclass(frozen=True)
class Flag:
    """The description of a field for the command line.

    Attributes:
        name: the flag, such as ``--parity-data``; empty: a positional argument.
        arguments: the arguments of argparse's ``add_argument``.
        alternatives: triples of a flag, the field's value for it, and its help; these flags exclude each other.
        group: the title of the flag's group in ``--help``; empty: the main group.
        convert: a function from the passed value to the field's value; None stays None. It may raise an
            `exporter.errors.ExportError`.
        options: the field's own dataclass of options, whose flags form the group.
    """

    name: str = ""
    arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
    alternatives: tuple[tuple[str, str, str], ...] = ()
    group: str = ""
    convert: Callable[[Any], Any] | None = None
    options: type | None = None


def flag(
    default: Any, name: str, *, group: str = "", convert: Callable[[Any], Any] | None = None, **arguments: Any
) -> Any:
    """Make a field with a flag of the command line.

    Args:
        default: the field's default; False makes the flag a switch.
        name: the flag.
        group: the title of its group in ``--help``.
        convert: the function that makes the field's value, see `Flag`.
        arguments: the arguments of argparse's ``add_argument``, such as ``help``.
    """
    if default is False:
        arguments["action"] = "store_true"
    return dataclasses.field(default=default, metadata={_FLAG: Flag(name, arguments, group=group, convert=convert)})


def positional(**arguments: Any) -> Any:
    """Make a field without a default that is a positional argument of the command line."""
    return dataclasses.field(metadata={_FLAG: Flag(arguments=arguments)})


def alternatives(default: Any, flags: Sequence[tuple[str, str, str]]) -> Any:
    """Make a field with one flag for each of its values: (flag, value, help)."""
    return dataclasses.field(default=default, metadata={_FLAG: Flag(alternatives=tuple(flags))})


def nested(options: type, group: str) -> Any:
    """Make a field that holds another dataclass of options, whose flags form a group of ``--help``."""
    return dataclasses.field(default_factory=options, metadata={_FLAG: Flag(group=group, options=options)})


def add_flags(parser: argparse.ArgumentParser, options: type) -> None:
    """Add the flags of a dataclass to a parser, in the order of its fields."""
    groups: dict[str, argparse._ArgumentGroup] = {}
    _add(parser, groups, options, "")


def _add(
    parser: argparse.ArgumentParser, groups: dict[str, argparse._ArgumentGroup], options: type, outer: str
) -> None:
    for field in dataclasses.fields(options):
        described: Flag | None = field.metadata.get(_FLAG)
        if described is None:
            continue
        title = described.group or outer
        if title and title not in groups:
            groups[title] = parser.add_argument_group(title)
        if described.options is not None:
            _add(parser, groups, described.options, title)
        elif described.alternatives:
            exclusive = parser.add_mutually_exclusive_group()
            for name, value, text in described.alternatives:
                exclusive.add_argument(name, dest=field.name, action="store_const", const=value, help=text)
        elif described.name:
            (groups[title] if title else parser).add_argument(described.name, dest=field.name, **described.arguments)
        else:
            parser.add_argument(field.name, nargs="?", **described.arguments)


def from_arguments(options: type[_T], arguments: argparse.Namespace) -> _T:
    """Make the dataclass from the parsed command line; fields without a given flag have their defaults.

    Raises:
        ExportError: a value cannot be converted, or the dataclass refuses it.
    """
    values: dict[str, Any] = {}
    for field in dataclasses.fields(options):  # type: ignore[arg-type]
        described: Flag | None = field.metadata.get(_FLAG)
        if described is not None and described.options is not None:
            values[field.name] = from_arguments(described.options, arguments)
        elif described is not None and getattr(arguments, field.name) is not None:
            values[field.name] = getattr(arguments, field.name)
    return options(**values)


def several(value: Any) -> tuple[Any, ...]:
    """Convert ``"image,text"``, another single value, or a collection of values to a tuple."""
    if isinstance(value, str):
        return tuple(name.strip() for name in value.split(",") if name.strip())
    return tuple(value) if isinstance(value, Iterable) and not isinstance(value, bytes) else (value,)


def convert_fields(options: Any) -> None:
    """Convert the fields of a frozen dataclass in place, for its ``__post_init__``.

    Raises:
        ExportError: a value cannot be converted, or is none of the flag's choices.
    """
    for field in dataclasses.fields(options):
        described: Flag | None = field.metadata.get(_FLAG)
        value = getattr(options, field.name)
        if described is not None and described.convert is not None and value is not None:
            object.__setattr__(options, field.name, described.convert(value))
        choices = described.arguments.get("choices") if described is not None else None
        if choices is not None and value is not None and value not in choices:
            raise ExportError(f"{field.name.replace('_', ' ')} {value!r} is none of {', '.join(choices)}")
