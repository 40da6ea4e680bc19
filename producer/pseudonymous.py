"""An archive in which pseudonyms take the place of patients' names."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import click

from contract.archive import FoundCapture, FoundCaptures
from contract.pseudonyms import PseudonymKey

pseudonymize_option = click.option(
    "--pseudonymize", is_flag=True,
    help="Store a keyed hash in place of each patient's name; SCREEN_PSEUDONYM_KEY_FILE holds the key.",
)  # fmt: skip


class Pseudonymous:
    """The captures of an archive, in its order, with a pseudonym for the patient's folder in path and patient."""

    def __init__(self, captures: FoundCaptures, key: PseudonymKey) -> None:
        self._captures = captures
        self._key = key

    def __iter__(self) -> Iterator[FoundCapture]:
        for capture in self._captures:
            yield replace(capture, path=self._key.path(capture.path), patient=self._key.pseudonym(capture.patient))


def pseudonymous_names(skipped: Mapping[str, Sequence[str]], key: PseudonymKey) -> dict[str, list[str]]:
    """The names of skipped files with their first part replaced, because it is most likely a patient's folder."""
    return {reason: [key.path(name.encode()).decode() for name in names] for reason, names in skipped.items()}
