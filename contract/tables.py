"""Reads tables that people make, mostly with a spreadsheet: labels.csv, `--truth`, `--split`, filled-in labels.

A table is read only if there is one way to understand it. Everything else is refused with file, line, cause and next
step: a table that is read wrongly gives captures to the wrong patients without any error.
"""

import codecs
import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from functools import partial
from pathlib import Path

from contract.errors import DataError
from contract.names import cleaned, lookalikes
from contract.printable import printable

DELIMITERS = (",", ";", "\t", "|")
EXPORT_AGAIN = (
    'save it again as CSV in UTF-8 (Excel: Save As, file type "CSV UTF-8"; LibreOffice: Save As, Text CSV, character '
    'set "Unicode (UTF-8)")'
)
OTHER_NAMES: Mapping[str, frozenset[str]] = {
    "path": frozenset(
        {"file", "filepath", "filename", "image", "imagefile", "img", "picture", "pfad", "datei", "bild"}
    ),
    "label": frozenset({"class", "klass", "klasse", "category", "diagnosis", "diagnose", "target"}),
    "patient": frozenset({"subject", "person", "proband", "case", "fall", "pid", "mrn"}),
    "split": frozenset({"set", "subset", "partition"}),
}
"""What other programs and people call our columns: without blanks, case and a word like `id` at the end."""
NEAR = 0.8
"""From this ratio of difflib on, a column's name is taken for a slip of the pen: lable and patinet reach it, size (for
site) and slide do not."""
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_NO_TEXT = (
    (b"PK\x03\x04", "a workbook (.xlsx, .ods or .numbers) or another zip file, not text"),
    (b"\xd0\xcf\x11\xe0", "a workbook of an old Excel (.xls), not text"),
)
_LINE_END = re.compile(r"\r\n|\r|\n")
_SEPARATOR_LINE = re.compile(r'"?sep=(.?)"?[,;\s]*', re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")
_FILE_NAME = re.compile(r"\.[A-Za-z]{3,4}$")
_reader = partial(csv.reader, strict=True, skipinitialspace=True)


@dataclass(frozen=True)
class Row:
    """A row, and the line of the file in which it begins. A cell has no blanks around it, and is in Unicode's form NFC
    except in the column path; a cell that has no column is "".
    """

    line: int
    cells: Mapping[str, str]

    def __getitem__(self, column: str) -> str:
        return self.cells.get(column, "")


@dataclass(frozen=True)
class Table:
    """The rows that are not blank, at least one; the known columns; and sentences about what was not read."""

    file: Path
    columns: frozenset[str]
    rows: tuple[Row, ...]
    warnings: tuple[str, ...] = field(default=())

    def at(self, *lines: int) -> str:
        """The beginning of a sentence about these lines."""
        numbers = " and ".join(str(line) for line in sorted(lines))
        return f"{self.file}, line{'s' if len(lines) > 1 else ''} {numbers}"

    def refuse_lookalikes(self, column: str, kind: str) -> None:
        """Raise DataError if two names in `column`, names of a `kind` of thing, could be taken for each other."""
        first: dict[str, int] = {}
        for row in self.rows:
            if row[column]:
                first.setdefault(row[column], row.line)
        if groups := lookalikes(first):
            one, other = groups[0][:2]
            show = repr if _bare(one) == _bare(other) else ascii  # ascii: the letters look the same and are not
            more = f" ({len(groups)} {kind}s are written in several ways)" if len(groups) > 1 else ""
            raise DataError(
                f"{self.at(first[one], first[other])}: are {show(one)} and {show(other)} the same {kind}?{more} Then "
                "write the name in one way in all lines; if not, give them names that nobody takes for each other"
            )


def _bare(name: str) -> str:
    return "".join(name.casefold().split())


def read_table(
    file: Path,
    needed: Sequence[str],
    optional: Sequence[str] = (),
    beside: Sequence[str] = (),
    *,
    content: bytes | None = None,
) -> Table:
    """Read a CSV file in UTF-8, UTF-16 or UTF-32, separated by commas, semicolons, tabs or bars.

    It must have the columns `needed`, and may have those `optional` and those `beside`, of which only the first are
    worth a question about a column with nearly such a name. `content` are the file's bytes where they were read before.
    Raises DataError.
    """
    lines = list(io.StringIO(_text(file, _bytes(file) if content is None else content), newline=""))
    start, separators = _header_line(file, lines)
    known = (*needed, *optional)
    delimiter = _delimiter(file, lines[start:], known, separators)
    records = _records(file, lines, start, delimiter)
    header_line, header = next(records)
    names = _columns(file, header, header_line, needed, optional)
    rows = [
        _row(file, line, cells, names, {*known, *beside}, delimiter)
        for line, cells in records
        if any(cell.strip() for cell in cells)
    ]
    if not rows:
        raise DataError(f"{file}: has no row below its header; add one for each of its captures or patients")
    unknown = [
        repr(cleaned(written))
        for written, name in zip(header, names, strict=True)
        if name and name not in (*known, *beside)
    ]
    warnings = []
    if unknown:
        plural = "s" if len(unknown) > 1 else ""
        warnings.append(f"{file}: did not read the column{plural} {', '.join(unknown)}; it knows {', '.join(known)}")
    return Table(file, frozenset(names) & {*known, *beside}, tuple(rows), tuple(warnings))


def table_text(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table for programs: CSV with a header, lines that end with a line feed, every value unchanged."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    return text.getvalue()


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}); name a file that this user may read") from None


def _text(file: Path, data: bytes) -> str:
    """The text of a file whose encoding is certain. Raises DataError."""
    for beginning, kind in _NO_TEXT:
        if data.startswith(beginning):
            raise DataError(f"{file}: is {kind}; {EXPORT_AGAIN}")
    mark, encoding = next(((mark, name) for mark, name in _MARKS if data.startswith(mark)), (b"", "utf-8"))
    try:
        text = data[len(mark) :].decode(encoding).lstrip("\ufeff")
    except UnicodeDecodeError as error:
        if mark:
            raise DataError(f"{file}: is damaged {encoding.upper()} ({error.reason}); {EXPORT_AGAIN}") from None
        raise _unknown_encoding(file, data, error.start) from None
    if not text.strip():
        raise DataError(f"{file}: is empty; {EXPORT_AGAIN}, or write it again")
    if "\0" in text:
        raise DataError(f"{file}: is UTF-16 without a byte order mark, or no text at all; {EXPORT_AGAIN}")
    if text.lstrip().startswith("<"):
        raise DataError(f"{file}: is a page of HTML or XML, whatever its name says; {EXPORT_AGAIN}")
    if "\ufffd" in text:
        line = _line_at(text, text.index("\ufffd"))
        raise DataError(
            f"{file}, line {line}: a program has lost letters here (\ufffd); take the original, {EXPORT_AGAIN}"
        )
    return text


def _unknown_encoding(file: Path, data: bytes, place: int) -> DataError:
    """Any bytes are text in Windows-1252, Latin-1, Windows-1251 and others: only a person can say in which."""
    if b"\0" in data:
        return DataError(f"{file}: is no text; {EXPORT_AGAIN}")
    line = _line_at(data[:place].decode("latin-1"), place)
    around = re.split(r'[\r\n,;\t|"]', data.decode("cp1252", "replace")[max(0, place - 60) : place + 60])
    offset = min(60, place)
    for cell in around:
        if offset <= len(cell):
            break
        offset -= len(cell) + 1
    return DataError(
        f'{file}, line {line}: is not UTF-8; the file may be in Windows-1252, as Excel\'s plain "CSV" is, where it '
        f"reads {printable(cell.strip())!r}, or in another code page, and nobody but you can say which; {EXPORT_AGAIN}"
    )


def _line_at(text: str, place: int) -> int:
    return len(_LINE_END.findall(text[:place])) + 1


def _header_line(file: Path, lines: Sequence[str]) -> tuple[int, tuple[str, ...]]:
    """The index of the first line that is neither blank nor Excel's `sep=;`, and the delimiters, the most
    likely one first.
    """
    separators: tuple[str, ...] = DELIMITERS
    for index, line in enumerate(lines):
        if declared := _SEPARATOR_LINE.fullmatch(line):
            if declared[1] and declared[1] not in DELIMITERS:
                raise DataError(f"{file}, line {index + 1}: cells separated by {declared[1]!r}; {EXPORT_AGAIN}")
            separators = (*declared[1], *DELIMITERS)
        elif line.strip(' \t\r\n",;|'):
            return index, separators
    raise DataError(f"{file}: is empty but for blank lines; {EXPORT_AGAIN}, or write it again")


def _delimiter(file: Path, lines: Sequence[str], known: Sequence[str], separators: Sequence[str]) -> str:
    """The delimiter that makes most columns of the header known ones, or else most columns."""

    def merit(delimiter: str) -> tuple[int, int]:
        try:
            header = next(_reader(lines, delimiter=delimiter))
        except csv.Error:
            return 0, 0
        return len({_folded(name) for name in header} & set(known)), len(header)

    return max(separators, key=merit)


def _records(file: Path, lines: Sequence[str], start: int, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Each record from line index `start` on, with the number of its first line. Raises DataError for a bad quote."""
    reader = _reader(lines[start:], delimiter=delimiter)
    while True:
        line = start + reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(
                f"{file}, line {line}: cannot be split into cells ({error}); is a quotation mark there that is not "
                'closed, or not doubled ("")?'
            ) from None
        yield line, cells


def _columns(file: Path, header: Sequence[str], line: int, needed: Sequence[str], optional: Sequence[str]) -> list[str]:
    """The folded names in the header; raises DataError unless all needed ones are there, and nothing is in doubt."""
    names, known = [_folded(name) for name in header], (*needed, *optional)
    where = f"{file}, line {line}"
    is_header = bool(set(names) & set(known))
    if not is_header and any(_FILE_NAME.search(name) for name in names):
        raise DataError(
            f"{where}: is a capture already, not the names of the columns; write {','.join(needed)} above it"
        )
    for name in known:
        if names.count(name) > 1:
            raise DataError(f"{where}: the column {name} is there {names.count(name)} times; keep one of them")
    if len(header) == 1 and any(delimiter in header[0] for delimiter in DELIMITERS):
        raise DataError(f"{where}: the whole line is one cell in quotation marks; {EXPORT_AGAIN}")
    for written, name in zip(header, names, strict=True):
        is_name = name not in known and (is_header or not any(letter.isdigit() for letter in name))
        meant = _near(written, [one for one in known if one not in names]) if is_name else None
        if meant is not None:
            raise DataError(
                f"{where}: is the column {written.strip()!r} the column {meant}? Then call it {meant}; if not, take it "
                "out or give it another name"
            )
    if missing := [name for name in needed if name not in names]:
        found = ", ".join(repr(name.strip()) for name in header if name.strip())
        fault = f"columns {' and '.join(missing)} are" if len(missing) > 1 else f"column {missing[0]} is"
        raise DataError(
            f"{where}: {fault} missing; the first line must name the columns {' and '.join(needed)}, separated by "
            f"commas, semicolons or tabs. It names {found}"
        )
    return names


def _folded(name: str) -> str:
    return cleaned(name).casefold()


def _near(written: str, missing: Iterable[str]) -> str | None:
    """The missing column that a column of another name probably is: Patient_ID, patientid, klass, lable."""
    words = re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", cleaned(written)))
    joined = "".join(words).casefold()
    stem = re.sub(r"(?<=..)(ids?|nr|no|number|nummer|name|code|key)$", "", joined)
    for column in missing:
        others = OTHER_NAMES.get(column, frozenset())
        is_word = column in (word.casefold() for word in words)
        is_slip = SequenceMatcher(None, stem, column).ratio() >= NEAR
        if is_word or is_slip or {joined, stem} & others:
            return column
    return None


def _row(file: Path, line: int, cells: Sequence[str], names: Sequence[str], known: set[str], delimiter: str) -> Row:
    """One row by column. Raises DataError where cells are too many or too few, or hold what no name can hold."""
    where = f"{file}, line {line}"
    beyond = [cell.strip() for cell in cells[len(names) :] if cell.strip()]
    if beyond:
        raise DataError(
            f"{where}: has {len(cells)} cells and the header {len(names)}, {beyond[0]!r} is too many; put a cell that "
            f"holds a {delimiter!r} in quotation marks"
        )
    if len(cells) < len(names) and set(names[len(cells) :]) & known:
        raise DataError(
            f"{where}: has {len(cells)} cells and the header {len(names)}; write the empty cells too, or join the line "
            "with the next if it was broken"
        )
    by_column = {}
    for name, cell in zip(names, cells, strict=False):
        _refuse_swallowed(where, cell, len(names), delimiter)
        if name not in known:
            continue
        if name != "path" and _CONTROL.search(cell.strip()):
            raise DataError(f"{where}: {name} holds a line break or another control character; write it in one line")
        by_column[name] = cell.strip() if name == "path" else cleaned(cell)
    return Row(line, by_column)


def _refuse_swallowed(where: str, cell: str, columns: int, delimiter: str) -> None:
    """A quotation mark that is closed only rows later makes one cell of all that lies between."""
    later_lines = _LINE_END.split(cell.strip())[1:]
    if columns > 1 and any(line.count(delimiter) >= columns - 1 for line in later_lines):
        raise DataError(
            f"{where}: a quotation mark opens a cell that goes on over whole lines; close it, or double it if it "
            "belongs to the text"
        )
