"""Keep secrets out of everything that is written: keys as they are, and in the forms in which programs print them.

A key reaches a log in more forms than its own: percent-encoded in a URL, in base64 in an `Authorization` header,
escaped in JSON or in Python's repr. The values come from the environment, where every process of a run has them, and
from the settings of the process that read `.env`. Standard library only.
"""

from __future__ import annotations

import base64
import functools
import json
import os
import sys
import traceback
import urllib.parse
from collections.abc import Callable
from types import TracebackType

MASK = "***"
LEAST = 8  # characters of a secret; the settings refuse a shorter one, which might be an ordinary word
# The two settings, and the names under which libraries know the same keys.
NAMES = ("WANDB_API_KEY", "HUGGINGFACE_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN")
known: set[str] = set()


def know(values: list[str]) -> None:
    """Keep these values out of everything that this process writes from now on."""
    known.update(value for value in values if len(value) >= LEAST)


def redact(text: str) -> str:
    """Return a text without the secrets that this process knows."""
    secrets = known | {value for name in NAMES if len(value := os.environ.get(name, "")) >= LEAST}
    for form in forms(frozenset(secrets)):
        text = text.replace(form, MASK)
    return text


def redact_all(value: object) -> object:
    """Return JSON data with the secrets removed from its texts."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {redact_all(key): redact_all(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [redact_all(inner) for inner in value]
    return value


@functools.lru_cache(maxsize=8)
def forms(secrets: frozenset[str]) -> list[str]:
    """Return every form of the secrets, the longest first."""
    found = set()
    for secret in secrets:
        found |= {
            secret,
            urllib.parse.quote(secret, safe=""),
            urllib.parse.quote_plus(secret),
            urllib.parse.quote(secret),
        }
        found |= {json.dumps(secret)[1:-1], repr(secret)[1:-1], secret.encode().hex()}
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            found |= {inner_base64(secret.encode(), before, encode) for before in range(3)}
    return sorted((form for form in found if len(form) >= LEAST), key=len, reverse=True)


def inner_base64(secret: bytes, before: int, encode: Callable[[bytes], bytes]) -> str:
    """Return the base64 digits that depend on the secret alone, if `before` bytes (modulo 3) precede it."""
    digits = encode(b"\0" * before + secret).decode().rstrip("=")
    first = (before * 8 + 5) // 6
    whole = (before + len(secret)) * 8 // 6
    return digits[first:whole]


def guard_tracebacks() -> None:
    """Remove secrets from the traceback that an error of this process prints."""

    def print_redacted(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        sys.stderr.write(redact("".join(traceback.format_exception(kind, error, trace))))

    sys.excepthook = print_redacted
