"""The JSON of a row, from a file or from a text inside a row."""

from __future__ import annotations

import json
import re

from sft.errors import DataError, shown
from sft.strict_json import once

SPACE = re.compile(r"[ \t\r\n]*")


def parse(text: str, where: str) -> object:
    """Return the JSON in a line. Raises DataError."""
    try:
        return json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise refusal(error, where) from None


def parse_all(text: str, path: str) -> list[tuple[int, object]]:
    """Return the value in the text of a whole file, or its objects if it has several, each with its first line.

    Raises DataError.
    """
    decoder = json.JSONDecoder(object_pairs_hook=once)
    found: list[tuple[int, object]] = []
    line, end = 1, 0
    try:
        while not found or SPACE.fullmatch(text, end) is None:
            start = skipped.end() if (skipped := SPACE.match(text, end)) else end
            line += text.count("\n", end, start)
            value, end = decoder.raw_decode(text, start)
            found.append((line, value))
            line += text.count("\n", start, end)
            if len(found) > 1 and not (isinstance(value, dict) and isinstance(found[0][1], dict)):
                raise json.JSONDecodeError("Extra data", text, start)
    except json.JSONDecodeError as error:
        raise refusal(error, f"{path}:{error.lineno}") from None
    except (ValueError, RecursionError) as error:
        raise refusal(error, f"{path}:{line}") from None
    return found


def refusal(error: ValueError | RecursionError, where: str) -> DataError:
    """Return the error for a text that cannot be read."""
    if isinstance(error, json.JSONDecodeError):
        reason = reason_of(error) or f"{error.msg} at column {error.colno}"
        return DataError(f"{where}: is not valid JSON ({reason}); fix the line")
    if isinstance(error, RecursionError):
        return DataError(f"{where}: is nested too deeply; fix the line")
    what = "holds a number with too many digits" if "integer string" in str(error) else shown(error, 200)
    return DataError(f"{where}: {what}; fix the line")


def reason_of(error: json.JSONDecodeError) -> str:
    """Return what is wrong with a text in better words than the json module's, for what people often write."""
    rest = error.doc[error.pos :].lstrip()
    before = error.doc[: error.pos].rstrip()
    if rest.startswith(("//", "#", "/*")):
        return "it has a comment"
    if error.msg == "Extra data" and rest.startswith(","):
        return "a comma follows the object"
    if error.msg == "Extra data" and rest.startswith("{"):
        return "another object follows it"
    if rest.startswith("'"):
        return "it has single quotes in place of double ones"
    if before.endswith(",") and rest.startswith(("]", "}")):
        return "a comma precedes the end of a list or an object"
    if error.msg.startswith("Unterminated string"):
        return f"the text that begins at column {error.colno} has no end"
    return ""
