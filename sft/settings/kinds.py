"""The kinds of values that settings have, each with its check, and the marks that a field may carry."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Literal, TypeVar, get_args

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from sft import redaction
from sft.settings import hosts, slices, variables
from sft.strict_json import once

# The values that can be decided, and the same with `auto`, which a user may also write.
OnDevice = Literal["cuda", "cpu"]
Launched = Literal["local", "compose", "slurm", "hosts"]
InPrecision = Literal["bf16", "fp16", "fp32"]
Device = Literal["auto", OnDevice]
Launcher = Literal["auto", Launched]
Precision = Literal["auto", InPrecision]
Schedule = Literal["cosine", "linear", "constant"]
Planning = Literal["refuse", "warn"]
Wandb = Literal["auto", "online", "offline", "disabled"]
BaseBits = Literal[16, 4]
StateBits = Literal[32, 16]
TrainedAnswers = Literal["all", "last"]
MarksInText = Literal["parse", "split"]
LongRows = Literal["cut", "drop", "refuse"]
ColumnRole = Literal[
    "prompt", "response", "reasoning", "system", "input", "history", "messages", "tools", "text", "unused"
]
UnusedColumns = Literal["refuse", "warn"]
AskedForm = Literal["auto", "number", "boxed", "choice", "text"]

LARGEST = 2**31 - 1  # of any whole number: more is a typing error, and too large for arrays and timers

# Marks


class Mark:
    """Says something about a field; `marked` lists the fields that carry it."""

    def __init__(self, *implied: Mark) -> None:
        """A field with this mark also has those that it implies."""
        self.all: set[Mark] = {self, *(mark for other in implied for mark in other.all)}


MAY_CHANGE = Mark()  # a resumed run may change it: every field without this mark decides what a run trains
NOT_OF_RUN = Mark(MAY_CHANGE)  # where a run happens and who sees it, not what it trains
OF_DATA = Mark()  # prepared data is made for this value
OF_PART = Mark(OF_DATA)  # each data set of several may have its own

T = TypeVar("T")
MayChange = Annotated[T, MAY_CHANGE]
NotOfRun = Annotated[T, NOT_OF_RUN]
OfData = Annotated[T, OF_DATA]
OfPart = Annotated[T, OF_PART]

# Checks


def readable(text: str) -> str:
    """Check a text: files and terminals must be able to show it. Raises ValueError."""
    if any(ord(c) < 32 and c not in "\n\t" for c in text) or not is_unicode(text):
        raise ValueError("holds characters that no terminal shows")
    return text


def plain(text: str) -> str:
    """Check a text of one line. Raises ValueError."""
    if not text.isprintable():
        raise ValueError("holds characters that a name cannot have")
    return text


def folder(path: Path) -> Path:
    """Return a path with `~` replaced by the home folder. Raises ValueError."""
    plain(str(path))
    if re.match(r"\$\{?\w", str(path)):  # docker compose, which reads the same `.env`, would take another folder
        raise ValueError("begins with a variable, which only a shell replaces")
    return variables.expanded(path)


def secret(value: SecretStr) -> SecretStr:
    """Check a key of an account. Raises ValueError, which never repeats the key."""
    text = value.get_secret_value()
    if text and (len(text) < redaction.LEAST or not text.isascii() or not text.isprintable() or " " in text):
        raise ValueError("is not a key: it is too short, or has spaces or odd characters")
    return value


def json_object(text: str, such_as: str = '{"enable_thinking": false}') -> str:
    """Check the text of a JSON object. Raises ValueError, with an example."""
    try:
        found = json.loads(text or "{}", object_pairs_hook=once)
        json.dumps(found, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"is not a JSON object such as {such_as}")
    return text or "{}"


def time_limit(text: str) -> str:
    """Check a time limit as Slurm takes it: minutes, [hours:]minutes:seconds, or days-hours[:minutes[:seconds]]."""
    if text and not re.fullmatch(r"\d+|(\d+:)?\d+:\d\d|\d+-\d+(:\d\d){0,2}", text):
        raise ValueError("is not a time limit such as 90 (minutes), 12:00:00 or 2-00 (days-hours)")
    return text


def column_roles(text: str) -> str:
    """Check the text of a JSON object of columns and their roles. Raises ValueError."""
    found = json.loads(json_object(text, '{"hint": "input"}'))
    for column, role in found.items():
        if role not in get_args(ColumnRole):
            raise ValueError(f"gives {column!r} the role {role!r}, which is none of {', '.join(get_args(ColumnRole))}")
    return text or "{}"


def splits(text: str) -> str:
    """Check the names of splits, which may be sliced. Raises ValueError."""
    slices.parse(text)
    return text


def data_sets(text: str) -> str:
    """Check the JSON that DATASETS' file becomes when it is loaded. Raises ValueError."""
    try:
        found = json.loads(text) if text else []
    except (ValueError, RecursionError):
        found = None
    entries = found if isinstance(found, list) else [None]
    for entry in entries:
        values = entry if isinstance(entry, dict) else {}
        if not values.get("dataset") or not all(isinstance(value, str) for value in values.values()):
            raise ValueError("is not a list of data sets")
    return text if entries else ""


def is_unicode(text: str) -> bool:
    """Whether a text can be written in UTF-8: lone surrogates cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


Lower = BeforeValidator(lambda value: value.strip().lower() if isinstance(value, str) else value)
# `auto` becomes None: the plan puts a number there before the settings are decided.
Planned = BeforeValidator(lambda value: None if isinstance(value, str) and value.strip().lower() == "auto" else value)
# A literal takes only the number itself; users write text.
BITS = {"32": 32, "16": 16, "4": 4}
Bits = BeforeValidator(lambda value: BITS.get(value.strip(), value) if isinstance(value, str) else value)
Count = Annotated[int, Field(le=LARGEST)]  # this limit wins over one of the field: fields with their own use plain int
Text = Annotated[str, AfterValidator(readable)]
Name = Annotated[str, AfterValidator(plain)]
Place = Annotated[Name, AfterValidator(variables.of_named_run)]  # may be a path
Arguments = Annotated[str, AfterValidator(plain), AfterValidator(json_object)]
DataSets = Annotated[str, AfterValidator(plain), AfterValidator(data_sets)]
Columns = Annotated[str, AfterValidator(plain), AfterValidator(column_roles)]
Splits = Annotated[str, AfterValidator(plain), AfterValidator(splits)]
TimeLimit = Annotated[str, AfterValidator(time_limit)]
HostNames = Annotated[str, AfterValidator(plain), AfterValidator(hosts.names)]
Folder = Annotated[Path, AfterValidator(folder)]
Secret = Annotated[SecretStr, AfterValidator(secret)]
