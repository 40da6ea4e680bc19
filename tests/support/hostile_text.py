"""Text as somebody might write it who wants a terminal, a log or a page to do something."""

HOSTILE = (
    "\x1b[31mred\x1b[0m\x1b]8;;http://example.invalid\x07here\n2026-01-01 00:00:00 UTC [error] forged\rover"
    "\N{RIGHT-TO-LEFT OVERRIDE}gpj\N{LEFT-TO-RIGHT ISOLATE}\N{ZERO WIDTH SPACE}\N{LINE SEPARATOR}\x85\x9b1m\x7f\x08"
    "\ue000[link=http://example.invalid][red]x[/][/] <script>alert(1)</script>\"'=1+1;=1+1"
)
"""Every kind of it in one text, as far as a database can hold it: escape sequences of both sets, line ends of every
kind, directions, invisible and private characters, markup of rich and HTML, formulas."""


def acts(text: str) -> list[str]:
    """The characters in the text that a terminal, a log or a reader's eye would fall for; line ends are allowed."""
    return sorted({letter for letter in text if letter != "\n" and not letter.isprintable()})


def forged(text: str) -> list[str]:
    """Lines that begin where HOSTILE has a line end."""
    return [line for line in text.splitlines() if line.startswith("2026-01-01 00:00:00 UTC [error] forged")]
