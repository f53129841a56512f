"""JSON files as dataclasses, read strictly.

A value whose type is not that of its field is refused, and the error names the field. Unknown keys are kept and written
back: a newer version of the project may have added them. Each file has the version of its format; files of an older
format, or from before there were versions, are translated while they are read.

This does not use pydantic, because importing it takes a quarter of a second, which a look at a run does not need.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Callable
from dataclasses import field
from pathlib import Path
from typing import ClassVar, Literal, Self, TypeVar, Union

from sft.errors import shown
from sft.redaction import redact, redact_all
from sft.run import files, light
from sft.run.light import dataclass

EXTRA = "extra"
VERSION = "version"
types_by_class: dict[type, dict[str, object]] = {}  # a cache: the state of a run is read several times a second
read_before: dict[Path, tuple[tuple[int, int, int], Record]] = {}  # a cache: files as they were when they were read
NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", list: "a list"}


class WrongType(ValueError):
    """A JSON value that does not have the type of its field; the text names the field."""


@dataclass(frozen=True, kw_only=True)
class Part(light.Shared):
    """A JSON object with typed fields: a record, or one inside of a record.

    Fields may have the types int, float (finite), str, bool, None, Literal, `object` (any JSON), another Part, and
    lists, string-keyed dicts and unions of these. A field without a default must be there.
    """

    extra: dict[str, object] = field(default_factory=dict)  # unknown keys

    @classmethod
    def from_json(cls, content: object, name: str = "") -> Self:
        """Return the object that `to_json` made JSON of. `name` says where it is, as in "after.samples[2]".

        Raises WrongType.
        """
        if not isinstance(content, dict):
            raise WrongType(f"{name} is {quoted(content)}, not an object" if name else "does not hold a JSON object")
        hints = field_types(cls)
        values = {
            key: decoded(value, hints[key], f"{name}.{key}".lstrip("."))
            for key, value in content.items()
            if key in hints
        }
        if missing := light.required(cls) - values.keys():
            raise WrongType(f"{name} has no {' and no '.join(sorted(missing))}".lstrip())
        make: Callable[..., Self] = cls
        return make(**values, extra={key: value for key, value in content.items() if key not in hints})

    def to_json(self) -> dict[str, object]:
        """Return the fields as JSON data, and the unknown keys."""
        return {name: encoded(getattr(self, name)) for name in field_types(type(self))} | self.extra


@dataclass(frozen=True, kw_only=True)
class Record(Part):
    """The content of a JSON file."""

    version: ClassVar[int] = 1  # raised if older readers would misunderstand the new format
    has_errors: ClassVar[bool] = False  # it quotes other programs, and perhaps a secret: `write` masks secrets

    @classmethod
    def upgraded(cls, content: object, version: int) -> object:
        """Translate the content of a file of an older version; version 0: from before there were versions."""
        return content


R = TypeVar("R", bound=Record)


def read(path: Path, kind: type[R], advice: str = "remove it") -> R:
    """Return the record in a file. Raises OSError, and files.Unreadable for one that does not hold such a record."""
    found = files.read_any_json(path, advice)
    version = found.pop(VERSION, 0) if isinstance(found, dict) else 0
    try:
        if type(version) is not int:
            raise WrongType(f"{VERSION} is {shown(version)}, not {NAMES[int]}")
        if version > kind.version:
            raise WrongType(f"was written by a newer version of the project ({VERSION} {version}, not {kind.version})")
        return kind.from_json(found if version == kind.version else kind.upgraded(found, version))
    except WrongType as error:
        raise files.Unreadable(f"{path}: {error}; {advice}") from None


def read_unchanged(path: Path, kind: type[R], advice: str = "remove it") -> R:
    """Return the record in a file as `read` does, or as this process has read it before if the file is the same.

    For files that are replaced and never changed, of which a monitor looks at hundreds twice a second.
    """
    found = path.stat()
    key = found.st_ino, found.st_mtime_ns, found.st_size
    before, record = read_before.get(path, (None, None))
    if before != key or not isinstance(record, kind):
        record = read(path, kind, advice)
        read_before[path] = key, record
    return record


def write(path: Path, record: Record, flushed: bool = True) -> None:
    """Write a record to a file, whole (see files.write_whole). Raises OSError."""
    files.write_json(path, content_of(record), flushed)


def write_first(path: Path, record: Record) -> None:
    """Write a record to a file that is not there yet (see files.write_first). Raises FileExistsError, and OSError."""
    files.write_first(path, files.as_json(content_of(record)))


def content_of(record: Record) -> dict[str, object]:
    """Return the content of a record's file, without secrets."""
    content = {VERSION: record.version} | record.to_json()
    if not record.has_errors:
        return content
    return {redact(name): redact_all(value) for name, value in content.items()}


# Values


def field_types(kind: type[Part]) -> dict[str, object]:
    """Return the types of a class's fields by name, without `extra`."""
    if kind not in types_by_class:
        hints = typing.get_type_hints(kind)
        types_by_class[kind] = {part.name: hints[part.name] for part in dataclasses.fields(kind) if part.name != EXTRA}
    return types_by_class[kind]


def decoded(value: object, kind: object, name: str) -> object:
    """Return a JSON value as the type `kind` has it. Raises WrongType."""
    origin, arguments = taken_apart(kind)
    if kind is object:
        return value
    if isinstance(kind, type) and issubclass(kind, Part):
        return kind.from_json(value, name)
    if origin in (Union, types.UnionType):
        return decoded_union(value, kind, name)
    if origin is list and isinstance(value, list):
        return [decoded(inner, arguments[0], f"{name}[{i}]") for i, inner in enumerate(value)]
    if origin is dict and isinstance(value, dict):
        return {key: decoded(inner, arguments[1], f"{name}.{key}") for key, inner in value.items()}
    if origin is Literal and isinstance(value, str) and value in arguments:
        return value
    if kind is float and type(value) in (int, float) and is_finite(value):
        return float(typing.cast("int | float", value))
    if kind is int and type(value) is int and abs(value) < 2**63:
        return value
    if kind in (str, bool) and type(value) is kind:
        return value
    raise WrongType(f"{name} is {quoted(value)}, not {in_words(kind)}")


def decoded_union(value: object, kind: object, name: str) -> object:
    """Return a JSON value as the first of a union's types that it has. Raises WrongType."""
    _, members = taken_apart(kind)
    choices = [member for member in members if member is not types.NoneType]
    if value is None and len(choices) < len(members):
        return None
    for choice in choices[:-1]:
        try:
            return decoded(value, choice, name)
        except WrongType:
            continue
    return decoded(value, choices[-1], name)


@functools.cache
def taken_apart(kind: object) -> tuple[object, tuple[object, ...]]:
    """Return what a type is made of, as in (list, (int,)) for list[int]; None instead of a plain type."""
    return typing.get_origin(kind), typing.get_args(kind)


def is_finite(value: object) -> bool:
    """Tell whether a number has a finite float: 1e999 and whole numbers of 400 digits have none."""
    try:
        return math.isfinite(typing.cast("int | float", value))
    except OverflowError:
        return False


def encoded(value: object) -> object:
    """Return a field's value as JSON data."""
    if isinstance(value, Part):
        return value.to_json()
    if isinstance(value, list):
        return [encoded(inner) for inner in value]
    if isinstance(value, dict):
        return {key: encoded(inner) for key, inner in value.items()}
    return value


def quoted(value: object) -> str:
    """Return a JSON value as an error message shows it."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    return f'"{shown(value, 40)}"' if isinstance(value, str) else "null" if value is None else shown(value, 40)


def in_words(kind: object) -> str:
    """Return what an error message calls the values of a type."""
    if typing.get_origin(kind) is Literal:
        return f"one of {', '.join(typing.get_args(kind))}"
    name = typing.get_origin(kind) or kind
    return NAMES.get(name, "an object") if isinstance(name, type) else "an object"
