"""Rows become tokens on all cores: worker processes take chunks of them, and their order stays."""

from __future__ import annotations

import gc
import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from typing import Protocol

from sft import resources
from sft.errors import DataError
from sft.rows.bad_rows import BadRows
from sft.rows.row import ReadRow
from sft.trainer.data.rows import Dropped, Tokenised, TokenisedRow

# From so many rows on, or so many characters in the first ones, worker processes share the rows.
MANY_ROWS, MANY_CHARACTERS = 1000, 20_000_000
# A worker takes so many at a time. More are no faster, and a row of many turns can become millions of tokens; so can a
# book, of which a tokenizer holds a hundred times the text in memory.
CHUNK_ROWS, CHUNK_CHARACTERS = 100, 2_000_000

worker: RowTokeniser  # one in each process, inherited from the process that forks it


class RowTokeniser(Protocol):
    """What turns rows into tokens: of conversations, or of texts (texts.py)."""

    def rows(self, read: Iterable[ReadRow]) -> list[Tokenised | DataError]:
        """Return what becomes of each row, or the error that names its place, in order."""


def tokenised(read: Iterable[ReadRow], tokeniser: RowTokeniser, bad: BadRows) -> Iterator[TokenisedRow | Dropped]:
    """Yield what becomes of all rows, in order. Rows that cannot be used are added to `bad` instead.

    Only a few chunks of rows are in memory at a time.
    """
    for found in rows_and_errors(read, tokeniser):
        if isinstance(found, DataError):
            bad.add(found)
        elif isinstance(found, Dropped):
            yield found
        else:
            yield from found


def rows_and_errors(read: Iterable[ReadRow], tokeniser: RowTokeniser) -> Iterator[Tokenised | DataError]:
    """Yield what becomes of each row, or its error, in order. Many rows are spread over all cores."""
    global worker
    worker = tokeniser
    rest = chunks(read)
    first: list[list[ReadRow]] = []
    number = size = 0
    while number < MANY_ROWS and size < MANY_CHARACTERS and (chunk := next(rest, None)):
        first.append(chunk)
        number += len(chunk)
        size += sum(map(characters, chunk))
    workers = resources.cores()
    if workers == 1 or (number < MANY_ROWS and size < MANY_CHARACTERS):
        for chunk in itertools.chain(first, rest):
            yield from work(chunk)
        return
    # The workers share this process's memory until somebody writes to it, which a garbage collection does everywhere.
    gc.collect()
    gc.freeze()
    pool = ProcessPoolExecutor(workers, mp_context=get_context("fork"))
    try:
        waiting: deque[Future[list[Tokenised | DataError]]] = deque()
        for chunk in itertools.chain(first, rest):
            waiting.append(pool.submit(work, chunk))
            if len(waiting) > 2 * workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        gc.unfreeze()


def chunks(rows: Iterable[ReadRow]) -> Iterator[list[ReadRow]]:
    """Yield rows, in order: CHUNK_ROWS at a time, or fewer long ones."""
    chunk: list[ReadRow] = []
    size = 0
    for row in rows:
        chunk.append(row)
        size += characters(row)
        if len(chunk) == CHUNK_ROWS or size >= CHUNK_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def characters(read: ReadRow) -> int:
    """Return the length of the texts that are columns of a row."""
    _, row = read
    return 0 if isinstance(row, DataError) else sum(len(value) for value in row.values() if isinstance(value, str))


def work(chunk: list[ReadRow]) -> list[Tokenised | DataError]:
    """Tokenise a chunk of rows in this process."""
    return worker.rows(chunk)
