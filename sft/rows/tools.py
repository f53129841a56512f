"""Functions that the assistant may call, and its calls, as chat templates take them.

Both have OpenAI's form (https://platform.openai.com/docs/guides/function-calling), except that the arguments of a call
are an object: https://huggingface.co/docs/transformers/chat_extras
"""

from __future__ import annotations

from collections.abc import Mapping

from sft.errors import DataError
from sft.rows.files import Row
from sft.rows.values import check_keys, checked_json, checked_list, checked_object, checked_text, is_filled, quoted

SCHEMA = '[{"type": "function", "function": {"name": …, "parameters": {…}}}, …]'
CALL = '[{"type": "function", "function": {"name": …, "arguments": {…}}}, …]'
VALUES = ("default", "const", "enum", "examples")  # words of JSON Schema that hold values, not schemas
NAMED = ("properties", "patternProperties", "dependentSchemas", "$defs", "definitions")  # that hold schemas by name


def tools_of(row: Row, where: str, filled: list[str]) -> tuple[Mapping[str, object], ...]:
    """Return the JSON schemas in the `filled` column of tools of a row, whatever its form. Raises DataError."""
    if len(filled) > 1:
        raise DataError(f"{where}: has both `{filled[0]}` and `{filled[1]}`; leave one of them")
    if not filled:
        return ()
    what = f"`{filled[0]}`"
    schemas = checked_list(row[filled[0]], where, what, f"{SCHEMA}, or rename the column if it is something else")
    return tuple(schema_of(found, where, f"{what}: function {number}") for number, found in enumerate(schemas, 1))


def schema_of(found: dict[str, object], where: str, what: str) -> dict[str, object]:
    """Return the schema of a function, its keys in the row's order, since templates write it as it is.

    It may be without the object around it. Raises DataError.
    """
    checked_json(found, where, what)
    check_type(found, where, what)
    if "function" in found:
        outer = {key: value for key, value in found.items() if key != "type" or is_filled(value)}
        function = checked_object(found["function"], where, f"{what}: `function`")
    else:
        outer, function = {}, {key: value for key, value in found.items() if key != "type"}
    check_name(function, where, what)
    if is_filled(function.get("input_schema")):
        raise DataError(f"{where}: {what} has `input_schema`; call it `parameters`")
    if function.get("parameters") is not None:
        function = function | {"parameters": checked_object(function["parameters"], where, f"{what}: `parameters`")}
    whole = (outer if "type" in outer else {"type": "function"} | outer) | {"function": function}
    return {key: without_nulls(value) for key, value in whole.items() if value is not None}


def without_nulls(schema: object, has_names: bool = False) -> object:
    """Return a JSON schema without the nulls that have no meaning in one.

    Files that were written from Arrow tables give every object the keys of all others, with null: a function would
    have the parameters of all functions. A schema is never null, but a default may be. `has_names`: the keys are names
    of parameters, not words of JSON Schema (https://json-schema.org/draft/2020-12/json-schema-validation).
    """
    if isinstance(schema, list):
        return [without_nulls(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {}
    for key, value in schema.items():
        if key in VALUES and not has_names:
            if value is not None or key in ("default", "const"):
                found[key] = value
        elif value is not None:
            found[key] = without_nulls(value, has_names=key in NAMED and not has_names)
    return found


def calls_of(value: object, where: str) -> list[dict[str, object]]:
    """Return the calls in a message's `tool_calls`. Raises DataError."""
    calls = checked_list(value, where, "`tool_calls`", CALL)
    return [call_of(found, where, f"`tool_calls`: call {number}") for number, found in enumerate(calls, 1)]


def call_of(found: dict[str, object], where: str, what: str) -> dict[str, object]:
    """Return a call, which may be written without the object `function`, with its arguments as an object.

    >>> call_of({"name": "add", "arguments": '{"a": 1}'}, "", "")
    {'type': 'function', 'function': {'name': 'add', 'arguments': {'a': 1}}}
    """
    checked_json(found, where, what)
    check_type(found, where, what)
    if "function" in found:
        check_keys(found, ("id", "type", "index", "function"), where, what)
        function = checked_object(found["function"], where, f"{what}: `function`")
    else:
        check_keys(found, ("id", "type", "index", "name", "arguments"), where, what)
        function = {key: value for key, value in found.items() if key in ("name", "arguments")}
    outer = {key: found[key] for key in ("id", "index") if found.get(key) not in (None, "")}
    return outer | {"type": "function", "function": named_arguments(function, where, what)}


def named_arguments(function: dict[str, object], where: str, what: str) -> dict[str, object]:
    """Return the name and the arguments of a call; a call may be without arguments. Raises DataError."""
    check_name(function, where, what)
    check_keys(function, ("name", "arguments"), where, what)
    given = function.get("arguments")
    if given is None or (isinstance(given, str) and not given.strip()):
        given = {}
    return {"name": function["name"], "arguments": checked_object(given, where, f"{what}: `arguments`")}


def check_type(found: dict[str, object], where: str, what: str) -> None:
    """Raise DataError for a tool that is not a function (a web search, say), and for what is no tool at all."""
    kind = found.get("type")
    if kind not in (None, "", "function"):
        raise DataError(f"{where}: {what} is of type {quoted(kind)}; only functions are trained, so remove it")


def check_name(function: dict[str, object], where: str, what: str) -> None:
    """Raise DataError for a function without a name."""
    if not checked_text(function.get("name"), where, f"{what}: `name`").strip():
        raise DataError(f"{where}: {what}: `name` is empty; write the function's name")
