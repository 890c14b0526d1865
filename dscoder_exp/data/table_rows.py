"""Reading tables: comma- or tab-separated values, and Parquet. A column's name is a row's key."""

import csv
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from dscoder_exp.data.file_kinds import KEY, opened
from dscoder_exp.data.json_rows import Fault, decoded
from dscoder_exp.schema.errors import refuse

QUOTING = 'a field with a quote, a delimiter or a line break in it is put in "quotes", and its quotes doubled'
DELIMITERS = ",;\t|"  # some spreadsheets save a .csv with another one than the comma
BATCH_ROWS = 1024


def parse_table(path: Path) -> Iterator[tuple[int, Any]]:
    """The records of a .csv or .tsv, each with the line where it begins, counted from 1; the first names the columns.

    A record of too many or too few fields becomes a Fault.

    Raises:
        Refused: not CSV, or two columns have one name.
    """
    csv.field_size_limit(sys.maxsize)
    with opened(path) as file:
        lines = map(decoded, file)
        first = next(lines, "")
        reader = csv.reader(chain([first], lines), delimiter=max(DELIMITERS, key=first.count), strict=True)
        start = 1
        try:
            header = [name.strip() for name in next(reader, [])]
            if repeated := {name for name in header if header.count(name) > 1}:
                what = f"the column {min(repeated)!r} is named twice"
                raise refuse(f"{path}:1", what, "the first line gives each column a name of its own")
            start = reader.line_num + 1
            for record in reader:
                if len(record) == len(header):
                    yield start, dict(zip(header, record, strict=True))
                elif record:
                    why = f"{len(record)} fields where the first line names {len(header)}"
                    yield start, Fault(why, remedy=QUOTING)
                start = reader.line_num + 1
        except csv.Error as error:
            raise refuse(f"{path}:{start}", f"not CSV: {error}", QUOTING) from None


def parse_parquet(path: Path) -> Iterator[Any]:
    """The rows of a Parquet file.

    Raises:
        Refused: it is damaged, or of a kind that pyarrow doesn't read.
    """
    import pyarrow  # MLflow brings it
    from pyarrow import parquet, types

    try:
        with parquet.ParquetFile(path) as file:
            nested = [item.name for item in file.schema_arrow if types.is_nested(item.type)]
            for batch in file.iter_batches(BATCH_ROWS):
                for entry in batch.to_pylist():
                    yield entry | {name: _without_nulls(entry[name]) for name in nested}
    except (pyarrow.ArrowException, OSError) as error:
        what = f"damaged, or cut short: {path} ({str(error).splitlines()[0]})"
        raise refuse(KEY, what, "copy or download the file again") from None


def _without_nulls(value: Any) -> Any:
    """A nested value without the keys that hold null: in Parquet all objects of a column have the keys of each."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value
