"""What the rows of a data set hold: all of them the same."""

from __future__ import annotations

from typing import Literal

RowKind = Literal["conversations", "texts"]


def common_kind(kinds: list[RowKind]) -> RowKind:
    """Return what the rows of several data sets hold together: conversations, if those of any do."""
    return "texts" if set(kinds) == {"texts"} else "conversations"
