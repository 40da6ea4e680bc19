"""File names as text. On disk a name is bytes and need not be UTF-8; tables, terminals and JSON need text."""

import os


def display_name(name: bytes) -> str:
    r"""Readable text for a path's bytes; different bytes always give different text.

    UTF-8 does not change. A backslash is doubled. Bytes that are not UTF-8 and characters that control a terminal
    (newline, escape, ...) become \xNN or \uNNNN, so no folder name can forge a line of a report.

    >>> display_name("Müller/01.jpg".encode())
    'Müller/01.jpg'
    >>> display_name(b"M\xfcller")
    'M\\xfcller'
    """
    text = name.replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")
    return "".join(letter if letter.isprintable() else _escaped(letter) for letter in text)


def _escaped(character: str) -> str:
    r"""\xNN for ASCII, where it is the byte; longer forms above it, because there \xNN means a byte outside UTF-8."""
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def path_bytes(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a path, as the file system stores them."""
    return os.fsencode(path)
