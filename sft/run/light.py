"""Dataclasses that are quick to make, because all of them share the methods of one class.

`dataclasses` compiles a constructor, a comparison and more for each class. For the types of all files of a run that
takes 10 ms, a twentieth of the time that a look at a run takes.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass  # to a type checker they are what they always were
else:
    dataclass = functools.partial(dataclasses.dataclass, init=False, repr=False, eq=False, match_args=False)


required_by_class: dict[type, frozenset[str]] = {}  # a cache: a look at a run makes thousands of objects


class Shared:
    """The methods of a frozen dataclass whose arguments are all named."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[object]]]

    def __init__(self, **values: object) -> None:
        parts = dataclasses.fields(self)
        if unknown := values.keys() - {part.name for part in parts}:
            raise TypeError(f"{type(self).__name__} has no {', '.join(sorted(unknown))}")
        if missing := required(type(self)) - values.keys():
            raise TypeError(f"{type(self).__name__} needs {', '.join(sorted(missing))}")
        for part in parts:
            if part.name not in values:
                make = part.default_factory
                values[part.name] = part.default if make is dataclasses.MISSING else make()
        vars(self).update(values)  # not attribute by attribute, which a frozen dataclass refuses

    def __eq__(self, other: object) -> bool:
        return vars(self) == vars(other) if type(self) is type(other) else NotImplemented

    def __repr__(self) -> str:
        return f"{type(self).__qualname__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"


def required(kind: type[Shared]) -> frozenset[str]:
    """Return the names of the fields that have no default."""
    if kind not in required_by_class:
        missing = dataclasses.MISSING
        parts = dataclasses.fields(kind)
        found = (part.name for part in parts if part.default is missing and part.default_factory is missing)
        required_by_class[kind] = frozenset(found)
    return required_by_class[kind]
