"""Reviewers' names: two spellings of a name are one person, because four eyes are two people."""

import unicodedata

_INVISIBLE = ("Cf", "Cc")
"""Unicode's general categories of characters that take no place on a screen: format and control characters."""


def person(name: str) -> str:
    """The name as it is compared: compatibility forms, case, blanks and invisible characters make no other person.

    Caseless matching of compatibility forms as the Unicode Standard defines it (section 3.13, D146), then blanks.

    >>> person(" Anna\\u00a0 MÜLLER\\u200b") == person("anna mu\\u0308ller")
    True
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    blanks = "".join(" " if character.isspace() else character for character in folded)
    return " ".join("".join(one for one in blanks if unicodedata.category(one) not in _INVISIBLE).split())
