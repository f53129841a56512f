"""Parquet and Arrow files, a batch of rows in memory at a time. pyarrow is imported only when one is read."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sft.errors import DataError, shown
from sft.rows import arrow
from sft.rows.row import ReadRow, row_or_error

if TYPE_CHECKING:
    import pyarrow

BATCH_ROWS = 1000  # in memory at a time
FILE_BEGINS = b"ARROW1"  # an Arrow file; a stream, as `datasets` writes it, has no such mark
STREAM_ENDS = b"\xff\xff\xff\xff\0\0\0\0"


def read_parquet(path: Path) -> Iterator[ReadRow]:
    """Yield the rows of a Parquet file."""
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path, page_checksum_verification=True)
        batches = file.iter_batches(BATCH_ROWS)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise unreadable(path, "Parquet", error) from None
    number = 0
    for row in rows_of(batches, file.schema_arrow, path, "Parquet"):
        number += 1
        yield row
    if number != file.metadata.num_rows:
        raise DataError(f"{path}: announces {file.metadata.num_rows} rows but holds {number}; write it again")


def read_arrow(path: Path) -> Iterator[ReadRow]:
    """Yield the rows of an Arrow file, in either of its two formats."""
    import pyarrow

    with path.open("rb") as raw:
        try:
            if raw.read(len(FILE_BEGINS)) == FILE_BEGINS:
                file = pyarrow.ipc.open_file(raw)
                schema, batches = file.schema, (file.get_batch(i) for i in range(file.num_record_batches))
            else:
                check_end(path)  # a stream that was cut between two batches reads like a whole one
                raw.seek(0)
                stream = pyarrow.ipc.open_stream(raw)
                schema, batches = stream.schema, (batch for batch in stream)
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise unreadable(path, "Arrow", error) from None
        small = (batch.slice(i, BATCH_ROWS) for batch in batches for i in range(0, len(batch), BATCH_ROWS))
        yield from rows_of(small, schema, path, "Arrow")


def check_end(path: Path) -> None:
    """Raise ValueError if an Arrow stream does not end as one does."""
    with path.open("rb") as raw:
        raw.seek(-min(len(STREAM_ENDS), raw.seek(0, io.SEEK_END)), io.SEEK_END)
        end = raw.read()
    if end != STREAM_ENDS:
        raise ValueError("it ends too early")


def rows_of(batches: Iterator[pyarrow.RecordBatch], schema: pyarrow.Schema, path: Path, kind: str) -> Iterator[ReadRow]:
    """Yield the rows of batches as they were written."""
    import pyarrow

    check_once(schema.names, str(path))
    as_written = arrow.as_written(schema)
    number = 0
    while True:
        try:
            batch = next(batches, None)
            rows = [] if batch is None else rows_in(batch, path)
        except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
            raise unreadable(path, kind, error) from None
        for row in rows:
            number += 1
            yield row_or_error(as_written, f"{path}:row {number}", row)
        if batch is None:
            break


def rows_in(batch: pyarrow.RecordBatch, path: Path) -> list[dict[str, object]]:
    """Return the rows of a batch. Raises DataError for a column with dates that Python does not have."""
    try:
        return batch.to_pylist()
    except OverflowError:  # as from milliseconds that were stored as seconds
        columns = {name: values_in(column, name, path) for name, column in zip(batch.schema.names, batch, strict=True)}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def values_in(column: pyarrow.Array, name: str, path: Path) -> list[object]:
    """Return the values of a column, dates that Python does not have as numbers: no form reads either as text."""
    import pyarrow

    try:
        return column.to_pylist()
    except OverflowError as error:
        if pyarrow.types.is_temporal(column.type):
            return column.view(f"int{column.type.bit_width}").to_pylist()
        what = f"the column {shown(repr(name))} holds a date that cannot be read ({shown(error)})"
        raise DataError(f"{path}: {what}; write it as text, or leave it out") from None


def unreadable(path: Path, kind: str, error: Exception) -> DataError:
    """Return the error for a file that pyarrow cannot read."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return DataError(f"{path}: is not a readable {kind} file ({shown(reason)}); write it again")


def check_once(names: list[str], where: str) -> None:
    """Raise DataError for a column that a file has twice: one of the two would be lost."""
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"{where}: has the column {shown(repr(name))} twice; rename one")
