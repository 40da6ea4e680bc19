"""File names as text. On disk a name is bytes and need not be UTF-8; tables, terminals and JSON need text."""

import os


def display_name(name: bytes) -> str:
    r"""Readable text for a path's bytes; different bytes always give different text.

    UTF-8 stays as it is. A backslash is doubled; bytes that are not UTF-8 and characters that a terminal would act
    on (newline, escape, ...) become \xNN or \uNNNN, so nothing a folder is called can forge a line of a report.

    >>> display_name("Müller/01.jpg".encode())
    'Müller/01.jpg'
    >>> display_name(b"M\xfcller")
    'M\\xfcller'
    """
    text = name.replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    r"""\xNN for ASCII, which is its byte; longer forms above it, where \xNN already means a byte that is not UTF-8."""
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def path_bytes(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a path, as the file system knows them."""
    return os.fsencode(path)
