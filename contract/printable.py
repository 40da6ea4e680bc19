r"""Text from outside as it may be shown: nothing in it acts on a terminal, forges a line, or turns the others around.

Names of folders and bundles, text in Redis and in rows may hold escape sequences, line breaks, characters that reverse
the direction of writing or are invisible (Unicode TR36, "Unicode Security Considerations"). Every output and the log go
through here: what cannot be printed becomes \xNN or \uNNNN.
"""

from typing import Any

from contract.errors import UsageError


def printable(text: str) -> str:
    r"""The text with every character that cannot be printed as \xNN or \uNNNN: a single line.

    That is all that Unicode calls control, format, surrogate, private or unassigned, and every separator but the blank.

    >>> printable("a\x1b[31mb\n\N{RIGHT-TO-LEFT OVERRIDE}c")
    'a\\x1b[31mb\\x0a\\u202ec'
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else _escaped(letter) for letter in text)


def is_printable(text: str) -> bool:
    """Whether a person would see all of the text: `printable` changes nothing in it."""
    return text.isprintable()


def printable_lines(text: str, indent: str = "") -> str:
    """The same for text of several lines: line breaks stay, and every line after the first begins with `indent`."""
    return f"\n{indent}".join(map(printable, text.split("\n")))


def printable_json(text: str) -> str:
    r"""JSON with what cannot be printed as \uNNNN within its strings: the same value for every program.

    >>> printable_json('"\N{RIGHT-TO-LEFT OVERRIDE}"')
    '"\\u202e"'
    """
    if text.replace("\n", "").isprintable():
        return text
    return "".join(letter if letter == "\n" or letter.isprintable() else _in_json(letter) for letter in text)


def printable_value(value: Any) -> Any:
    """Text as `printable`, and everything else as it is; also within lists and mappings."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable_value(key): printable_value(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [printable_value(inner) for inner in value]
    return value


def refuse_unprintable(what: str, text: str) -> str:
    """The text. Raises UsageError, which names `what` it is, if a person would not see all of it."""
    if not text.strip() or not text.isprintable():
        raise UsageError(f"{what} `{printable(text)}` is blank or holds what cannot be printed; choose another")
    return text


def _escaped(character: str) -> str:
    r"""\xNN for ASCII, where it is the byte; longer forms above it, because there \xNN means a byte outside UTF-8."""
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _in_json(character: str) -> str:
    """JSON has \\uNNNN alone: two of them, a surrogate pair, above it (RFC 8259, section 7)."""
    code = ord(character)
    if code < 0x10000:
        return f"\\u{code:04x}"
    high, low = divmod(code - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"
