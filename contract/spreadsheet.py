"""Text of a cell such that a spreadsheet shows it, and neither runs nor converts it.

CWE-1236; OWASP, "CSV Injection".
"""

import re

_STARTS = "=+\\-@\N{FULLWIDTH EQUALS SIGN}\N{FULLWIDTH PLUS SIGN}\N{FULLWIDTH HYPHEN-MINUS}\N{FULLWIDTH COMMERCIAL AT}"
_UNSEEN = "\ufeff\u200b\u2060\xad\xa0\u3000 "
"""Blanks, and characters of no width, which some programs drop when they read a cell."""
_RUN = re.compile(rf'(?:^|(?<=[;\t\r\n]))(?=[{_UNSEEN}"]*[{_STARTS}])')
"""Where a formula would begin: in the cell, or after what some spreadsheets take for its end. Where the comma is the
decimal sign, Excel divides at every semicolon, and a quote within a cell does not stop it.
"""
_LONGEST_FORMULA_TEXT = 255
"""Characters of a text within a formula in Excel: learn.microsoft.com, "Excel specifications and limits"."""
_MONTH = "jan|feb|mar|m\xe4r|apr|may|mai|jun|jul|aug|sep|oct|okt|nov|dec|dez"
_CONVERTED = re.compile(
    rf"true|false|[\d\s.,:;/%$\u20ac'\xa0e+-]*\d[\d\s.,:;/%$\u20ac'\xa0e+-]*(?:[ap]m?)?"
    rf"|\d*[\s./-]*(?:{_MONTH})[a-z]*[\s./-]*\d+(?:[\s./-]\d+)?|\d+[\s./-]*(?:{_MONTH})[a-z]*",
    re.IGNORECASE,
)
"""Texts of which a spreadsheet makes a number, a date, a time or a truth value; it may take a few more."""


def spreadsheet_text(text: str) -> str:
    """Text such that a spreadsheet shows it and neither converts nor runs it.

    What it would run gets an apostrophe in front, also in the middle of the text. What it would convert, such as 001
    or 1-2, becomes ="001".
    """
    if text.startswith(("\t", "\r", "\n")):
        return "'" + _RUN.sub("'", text)
    if _RUN.search(text):
        return _RUN.sub("'", text)
    if _CONVERTED.fullmatch(text.strip()):
        return f'="{text}"' if len(text) <= _LONGEST_FORMULA_TEXT else "'" + text
    return text
