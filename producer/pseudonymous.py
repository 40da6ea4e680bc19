"""An archive whose patients are named by their pseudonyms from here on."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import click

from contract.archive import FoundCapture, FoundCaptures
from contract.pseudonyms import PseudonymKey

pseudonymize_option = click.option(
    "--pseudonymize", is_flag=True,
    help="Name patients by a keyed hash in all that is stored; SCREEN_PSEUDONYM_KEY_FILE has the key.",
)  # fmt: skip


class Pseudonymous:
    """The captures of an archive, in its order, with the patient's folder replaced in path and patient."""

    def __init__(self, captures: FoundCaptures, key: PseudonymKey) -> None:
        self._captures = captures
        self._key = key

    def __iter__(self) -> Iterator[FoundCapture]:
        for one in self._captures:
            yield replace(one, path=self._key.path(one.path), patient=self._key.pseudonym(one.patient))


def pseudonymous_names(skipped: Mapping[str, Sequence[str]], key: PseudonymKey) -> dict[str, list[str]]:
    """The names of what was passed over, their first part replaced: it is a patient's folder, most likely."""
    return {why: [key.path(name.encode()).decode() for name in names] for why, names in skipped.items()}
