"""Rows as CSV: for programs every value as it is, for spreadsheets such that nothing is converted, lost or run.

A spreadsheet that opens a CSV reads umlauts as another encoding unless the file begins with a byte order mark, makes
the number 1 of the text 001 and a date of 1-2, and runs a cell that begins with `=`, `+`, `-` or `@` as a formula
(contract/spreadsheet.py). Anybody can choose the name of a folder.
"""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from contract.printable import printable
from contract.spreadsheet import spreadsheet_text

BYTE_ORDER_MARK = "\ufeff"
_CRLF = "\r\n"


def as_csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """For programs: rows below the names of `columns`, values unchanged; lists and mappings become JSON."""
    return _written(rows, columns, _cell, "\n")


def as_excel_csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """For spreadsheets: begins with a byte order mark; text stays text, see `spreadsheet_text`.

    Reasons become their sentences. Numbers stay numbers, negative ones too.
    """
    return BYTE_ORDER_MARK + _written(rows, columns, _spreadsheet_cell, _CRLF)


def _written(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str], cell: Callable[[Any], Any], end_of_line: str
) -> str:
    text = io.StringIO(newline="")
    # Python 3.11 quotes a \r within a cell only if the line's end contains one.
    writer = csv.writer(text, lineterminator=_CRLF)
    lines = []
    for values in (columns, *([cell(row.get(column)) for column in columns] for row in rows)):
        writer.writerow(values)
        lines.append(text.getvalue().removesuffix(_CRLF) + end_of_line)
        text.seek(0)
        text.truncate()
    return "".join(lines)


def _cell(value: Any) -> Any:
    if isinstance(value, (list, tuple, dict)):
        return json.dumps(value, default=_jsonable, ensure_ascii=False)
    if isinstance(value, datetime):
        return value.isoformat()
    return value


def _spreadsheet_cell(value: Any) -> Any:
    if isinstance(value, (list, tuple)) and all(isinstance(one, dict) and "sentence" in one for one in value):
        value = "; ".join(str(one["sentence"]) for one in value)
    value = _cell(value)
    return spreadsheet_text(printable(value)) if isinstance(value, str) else value


def _jsonable(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} in a cell")
