"""Rows as CSV: for programs every value as it is, for spreadsheets such that nothing is converted, lost or run.

A spreadsheet that opens a CSV reads umlauts as another encoding unless the file begins with a byte order mark, makes
the number 1 of the text 001 and a date of 1-2, and runs a cell that begins with `=`, `+`, `-` or `@` as a formula
(CWE-1236; OWASP, "CSV Injection"). Anybody can choose the name of a folder.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

BYTE_ORDER_MARK = "\ufeff"
FORMULA_STARTS = tuple("=+-@\t\r\n\N{FULLWIDTH EQUALS SIGN}\N{FULLWIDTH PLUS SIGN}\N{FULLWIDTH HYPHEN-MINUS}"
                       "\N{FULLWIDTH COMMERCIAL AT}")  # fmt: skip
_UNSEEN = "\ufeff\u200b\u2060\xad"
"""Characters of no width, which some programs drop when they read a cell."""
_LONGEST_FORMULA_TEXT = 255
"""Characters of a text within a formula in Excel: learn.microsoft.com, "Excel specifications and limits"."""
_MONTH = "jan|feb|mar|m\xe4r|apr|may|mai|jun|jul|aug|sep|oct|okt|nov|dec|dez"
_CONVERTED = re.compile(
    rf"true|false|[\d\s.,:;/%$\u20ac'\xa0e+-]*\d[\d\s.,:;/%$\u20ac'\xa0e+-]*(?:[ap]m?)?"
    rf"|\d*[\s./-]*(?:{_MONTH})[a-z]*[\s./-]*\d+(?:[\s./-]\d+)?|\d+[\s./-]*(?:{_MONTH})[a-z]*",
    re.IGNORECASE,
)
"""Texts of which a spreadsheet makes a number, a date, a time or a truth value; it may take a few more."""
_CRLF = "\r\n"


def as_csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """For programs: rows below the names of `columns`, values unchanged; lists and mappings become JSON."""
    return _written(rows, columns, _cell, "\n")


def as_excel_csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """For spreadsheets: begins with a byte order mark; text stays text, see `spreadsheet_text`.

    Reasons become their sentences. Numbers stay numbers, negative ones too.
    """
    return BYTE_ORDER_MARK + _written(rows, columns, _spreadsheet_cell, _CRLF)


def spreadsheet_text(text: str) -> str:
    """Text such that a spreadsheet shows it and neither converts nor runs it.

    What it would run gets an apostrophe in front. What it would convert, such as 001 or 1-2, becomes ="001".
    """
    if text.lstrip(_UNSEEN + " \xa0\u3000").startswith(FORMULA_STARTS):
        return "'" + text
    if _CONVERTED.fullmatch(text.strip()):
        return f'="{text}"' if len(text) <= _LONGEST_FORMULA_TEXT else "'" + text
    return text


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
    return spreadsheet_text(value) if isinstance(value, str) else value


def _jsonable(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} in a cell")
