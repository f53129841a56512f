"""The JSON of a row, from a file or from a text inside a row."""

from __future__ import annotations

import json

from sft.errors import DataError, shown
from sft.strict_json import once


def parse(text: str, where: str, whole: bool = False) -> object:
    """Return the JSON in a line, or in a `whole` file. Raises DataError."""
    try:
        return json.loads(text, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        where = f"{where}:{error.lineno}" if whole else where
        raise DataError(f"{where}: is not valid JSON ({error.msg} at column {error.colno}); fix the line") from None
    except RecursionError:
        raise DataError(f"{where}: is nested too deeply; fix the line") from None
    except ValueError as error:
        what = "holds a number with too many digits" if "integer string" in str(error) else shown(error, 200)
        raise DataError(f"{where}: {what}; fix the line") from None
