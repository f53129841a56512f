"""Which column of a row has which role: by its name, or as COLUMNS, PROMPT_COLUMN and RESPONSE_COLUMN say."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sized
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from sft.errors import DataError, shown
from sft.rows.files import Row
from sft.rows.forms import parts
from sft.rows.values import is_filled
from sft.settings.fields import Settings
from sft.settings.kinds import ColumnRole

# The names by which a role is recognised, in capitals too. Where they come from: the modules of the forms.
NAMES: Mapping[ColumnRole, tuple[str, ...]] = {
    "messages": (
        "messages", "conversations", "conversation", "contents", "data", "dialog", "dialogue", "turns", "chat",
    ),
    "prompt": (
        "question", "prompt", "instruction", "query", "problem", "inputs", "input_text",
        "open-ended verifiable question", "user", "human", "message_1",
    ),
    "response": (
        "answer", "response", "output", "completion", "generation", "solution", "output_text",
        "assistant", "bot", "message_2", "target", "targets", "final_answer", "ground-true answer", "answers",
    ),
    "input": ("input", "context", "article", "passage"),
    "system": ("system", "system_prompt", "system_message", "system_instruction", "systeminstruction"),
    "history": ("history",),
    "tools": ("tools", "functions"),
    "text": ("text", "segments"),
}  # fmt: skip
# Names that elsewhere stand for something else than messages: they count only if they hold a list.
LISTS = frozenset({"contents", "data", "dialog", "dialogue", "turns", "chat"})
# Names that also stand for something else: they count only in rows without one of the other names of their role.
WEAK = frozenset(
    {
        "user", "human", "message_1", "assistant", "bot", "message_2", "target", "targets", "final_answer",
        "ground-true answer", "answers",
    }
)  # fmt: skip
ROLE_OF: Mapping[str, ColumnRole] = {name: role for role, names in NAMES.items() for name in names}
DEFAULTS = {name: Settings.model_fields[name].default for name in ("prompt_column", "response_column")}


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a row."""

    row: Row
    where: str
    named: Mapping[str, ColumnRole]  # by the settings; names that are recognised are not looked for in these roles
    filled: Mapping[ColumnRole, list[str]]  # those that say something

    @classmethod
    def of(cls, row: Row, where: str, settings: Settings) -> Columns:
        """Return the columns of a row by their roles."""
        known = known_columns(tuple(row), settings.prompt_column, settings.response_column, settings.columns)
        if known.paths:
            row = parts.with_parts(row, known.paths, where)
        filled: dict[ColumnRole, list[str]] = {}
        for column, role in known.roles:
            if says_something(row[column]) and not (role == "messages" and is_other(column, row[column], known.named)):
                filled.setdefault(role, []).append(column)
        for role, columns in filled.items():
            if len(columns) > 1 and (strong := [column for column in columns if column.strip().lower() not in WEAK]):
                filled[role] = strong
        return cls(row, where, known.named, filled)

    def all_of(self, *roles: ColumnRole) -> list[str]:
        """Return the filled columns that have one of these roles."""
        found: list[str] = []
        for role in roles:
            if role in self.filled:
                found += self.filled[role]
        return found

    def one(self, role: ColumnRole) -> str:
        """Return the filled column of a role. Raises DataError for two that do not say the same."""
        first, *others = self.filled[role]
        for other in others:
            if self.row[other] != self.row[first]:
                both = f"the columns {quoted([first, other], ' and ')} could both be the {role}"
                raise DataError(f"{self.where}: {both}, and are not the same; name one, as in {given(first, role)}")
        return first

    def candidates(self, role: ColumnRole) -> list[str]:
        """Return the names of a role's columns: those that the settings name, or those by which it is recognised."""
        named = [column for column, given in self.named.items() if given == role]
        if named:
            return named
        found = [column for column in self.row if recognised(column) == role and column not in self.named]
        return sorted(found, key=lambda column: column.strip().lower() in WEAK)


def quoted(names: Iterable[str], between: str = ", ") -> str:
    """Return the names of columns for a message."""
    return between.join(f"`{shown(name)}`" for name in names)


def is_or_are(names: Sized) -> str:
    """Return the verb for columns."""
    return "is" if len(names) == 1 else "are"


def given(name: str, role: ColumnRole) -> str:
    """Return the setting that gives a column a role, for a remedy."""
    return f"COLUMNS={json.dumps({name: role})}"


def without(name: str) -> str:
    """Return the setting that leaves a column out, for a remedy."""
    return given(name, "unused")


@lru_cache
def recognised(column: str) -> ColumnRole | None:
    """Return the role that a column has by its name alone."""
    return ROLE_OF.get(column.strip().lower())


def is_other(column: str, value: object, named: Mapping[str, ColumnRole]) -> bool:
    """Whether a column of a name in LISTS holds no list, nor JSON of one with texts or objects."""
    is_list = isinstance(value, list) or (isinstance(value, str) and value.lstrip().startswith(('["', "[{")))
    return column.strip().lower() in LISTS and column not in named and not is_list


def says_something(value: object) -> bool:
    """Whether a column has more than white space."""
    return bool(value.strip()) if isinstance(value, str) else is_filled(value)


class Known(NamedTuple):
    """What the names of a row's columns say, which most rows of a data set share."""

    named: Mapping[str, ColumnRole]
    roles: tuple[tuple[str, ColumnRole], ...]  # columns with a role, and parts of columns
    paths: tuple[str, ...]  # of those parts


@lru_cache
def known_columns(names: tuple[str, ...], prompt: str, response: str, columns: str) -> Known:
    """Return what the names of columns say, under the settings PROMPT_COLUMN, RESPONSE_COLUMN and COLUMNS."""
    named = named_roles(prompt, response, columns)
    paths = tuple(name for name in named if parts.is_path(name, names))
    free = {name: role for name in names if (role := recognised(name)) and role not in named.values()}
    roles = {name: named.get(name) or free.get(name) for name in (*names, *paths)}
    return Known(named, tuple((name, role) for name, role in roles.items() if role), paths)


def named_roles(prompt: str, response: str, columns: str) -> Mapping[str, ColumnRole]:
    """Return the roles that the settings PROMPT_COLUMN, RESPONSE_COLUMN and COLUMNS give to columns.

    The defaults of the first two name nothing: they are among the names that are recognised.
    """
    named: dict[str, ColumnRole] = {}
    if prompt != DEFAULTS["prompt_column"]:
        named[prompt] = "prompt"
    if response != DEFAULTS["response_column"]:
        named[response] = "response"
    return named | json.loads(columns)
