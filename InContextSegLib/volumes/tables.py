"""Reads a table that names files: what people export from a spreadsheet, with columns found by their names."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from InContextSegLib.errors import InputError


def rows_in(path: Path, needed: Sequence[str], header: str) -> list[dict[str, str]]:
    """The rows of a CSV file by the names of its columns in lower case, without spaces round the cells.

    Commas, semicolons or tabs between columns; rows with nothing in the first of the `needed` columns are passed over.

    Args:
        needed: columns that must be there.
        header: a first row as it should be, for messages.

    Raises:
        InputError: if the file cannot be read, is no UTF-8 text, or lacks a column.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}).") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text; save it as 'CSV UTF-8'.") from error
    opening = text.partition("\n")[0]
    delimiter = max(",;\t", key=opening.count)
    rows = csv.DictReader(io.StringIO(text), delimiter=delimiter)
    columns = {name.strip().lower(): name for name in rows.fieldnames or ()}
    for column in needed:
        if column not in columns:
            raise InputError(f"{path} has no column '{column}'; its first row should name the columns: {header}.")
    found = [{column: (row.get(name) or "").strip() for column, name in columns.items()} for row in rows]
    return [row for row in found if row[needed[0]]]
