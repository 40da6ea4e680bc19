"""Names as text: of files, and as people type them into tables.

On disk a name is bytes and need not be UTF-8; tables, terminals and JSON need text.
"""

import os
import re
import unicodedata
from collections.abc import Iterable, Sequence

from contract.printable import printable

_SAME_SHAPE = str.maketrans("авекмнорстухіјѕαβεηικμνορτυχ‐–—−’‘ʼ`", "abekmhopctyxijsabehikmnoptyx----''''")
"""Casefolded Cyrillic and Greek letters whose capitals look like Latin ones, dashes, and apostrophes: what another
keyboard, or a program that corrects typing, puts in place of the usual character. All are in confusables.txt of
Unicode TR39, "Unicode Security Mechanisms"."""


def display_name(name: bytes) -> str:
    r"""Readable text for a path's bytes; different bytes always give different text.

    UTF-8 does not change. A backslash is doubled. Bytes that are not UTF-8 and characters that control a terminal
    (newline, escape, ...) become \xNN or \uNNNN, so no folder name can forge a line of a report.

    >>> display_name("Müller/01.jpg".encode())
    'Müller/01.jpg'
    >>> display_name(b"M\xfcller")
    'M\\xfcller'
    """
    return printable(name.replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace"))


def ascii_name(name: str) -> str:
    r"""The name, followed by what it is made of if that is more than ASCII or has blanks at its ends.

    >>> ascii_name("P\N{CYRILLIC SMALL LETTER A}")
    'Pа (P\\u0430)'
    """
    spelled = name.encode("ascii", "backslashreplace").decode()
    if name != name.strip():
        spelled = f"`{spelled}`"
    return name if spelled == name else f"{name} ({spelled})"


def one_line(text: object, most: int = 600) -> str:
    """What a library says, for a sentence of ours: printable, on one line, and cut off after `most` characters. It may
    repeat names from a file of somebody else, and as much of it as it likes.
    """
    return printable(" ".join(str(text).split()))[:most]


def path_bytes(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a path, as the file system stores them."""
    return os.fsencode(path)


def first_of(names: Sequence[str], most: int) -> str:
    """At most so many of the names, and how many more there are: `a, b and 3 more`."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def cleaned(text: str) -> str:
    """Text from a cell of a table: in Unicode's form NFC, without blanks around it, and with one space for any blanks
    within it.
    """
    return " ".join(unicodedata.normalize("NFC", text).split())


def alike(name: str) -> str:
    r"""A key that is equal for names that people would take for one another.

    They differ in case, in blanks, in invisible characters, in the Unicode form or width of a letter, in letters of
    another alphabet that look the same, or, where the whole name is a number, in zeros that a spreadsheet drops.

    >>> {alike(name) for name in ("P1", " p 1", "\N{CYRILLIC SMALL LETTER ER}1")}
    {'p1'}
    >>> alike("007") == alike("7") == alike("7.0")
    True
    """
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    text = "".join(letter for letter in text if not letter.isspace() and unicodedata.category(letter) != "Cf")
    number = re.fullmatch(r"0*(\d+)(?:[.,]0)?", text)
    return number[1] if number else text.translate(_SAME_SHAPE)


def look_alike(name: bytes) -> str:
    r"""A key that is equal for names of folders that people take for one another when they see them.

    Unlike `alike` it tells apart what looks different: 007 and 7, or a name with and without a blank within it. Bytes
    that are not UTF-8 are read as Windows-1252: archives from other systems have both.

    >>> look_alike(b"P1 ") == look_alike("p\N{FULLWIDTH DIGIT ONE}".encode()) != look_alike(b"P 1")
    True
    >>> look_alike("M\xfcller".encode()) == look_alike(b"Mu\xcc\x88ller") == look_alike(b"M\xfcller")
    True
    """
    try:
        text = name.decode()
    except UnicodeDecodeError:
        text = name.decode("cp1252", "backslashreplace")
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    text = "".join(letter for letter in text if unicodedata.category(letter) != "Cf")
    return " ".join(text.split()).translate(_SAME_SHAPE | {ord("0"): "o"})


def lookalikes(names: Iterable[str]) -> list[list[str]]:
    """Groups of two or more different names with the same `alike`, in the order in which they first appear."""
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        groups.setdefault(alike(name), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def the_one_meant(name: str, names: Sequence[str]) -> str | None:
    """Which of `names` a person means who writes `name`: the same, else the only one alike; None if there is none."""
    if name in names:
        return name
    meant = [one for one in names if alike(one) == alike(name)]
    return meant[0] if len(meant) == 1 else None
