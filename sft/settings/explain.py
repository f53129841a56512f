"""The errors of pydantic about settings, in words for users."""

from __future__ import annotations

from collections.abc import Mapping

from sft.errors import wrong
from sft.settings.fields import Settings, secret_names

# pydantic's kinds of errors: what is wrong, and what to do.
IN_PLAIN_WORDS = {
    "int_parsing": ("is not a whole number", "use a whole number"),
    "int_from_float": ("is not a whole number", "use a whole number"),
    "int_parsing_size": ("has too many digits", "use a smaller number"),
    "float_parsing": ("is not a number", "use a number such as 0.001 or 1e-3"),
    "finite_number": ("is not a finite number", "use a number such as 0.001 or 1e-3"),
    "bool_parsing": ("is neither 1 nor 0", "use 1 or 0"),
    "string_too_short": ("is empty", "give it a value, or leave it out"),
}


def explain(place: tuple[int | str, ...], kind: str, value: object, message: str, context: Mapping[str, object]) -> str:
    """Return the user's line for one of pydantic's errors: its `loc`, `type`, `input`, `msg` and `ctx`."""
    name = str(place[0]).upper() if place else "settings"
    value = "***" if name.lower() in secret_names() else value
    limits = {
        "greater_than": "more than",
        "greater_than_equal": "at least",
        "less_than": "less than",
        "less_than_equal": "at most",
    }
    if kind in limits:
        bound = next(iter(context.values()))
        return wrong(name, value, "is out of range", f"use {limits[kind]} {bound}")
    if kind == "literal_error":
        return wrong(name, value, "is not one of the choices", f"use {context['expected']}")
    if kind in IN_PLAIN_WORDS:
        what, remedy = IN_PLAIN_WORDS[kind]
        may_be_auto = name.lower() in Settings.model_fields and Settings.model_fields[name.lower()].default is None
        return wrong(name, value, what, remedy + " or auto" * may_be_auto)
    what = message.removeprefix("Value error, ")
    return wrong(name, value, what[0].lower() + what[1:], "correct it")
