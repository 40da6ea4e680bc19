"""An archive in which pseudonyms take the place of patients' names."""

from collections.abc import Iterator
from dataclasses import replace

import click

from contract.archive import Archive, FoundCapture, PatientWithoutCaptures
from contract.pseudonyms import PseudonymKey, repeating

pseudonymize_option = click.option(
    "--pseudonymize", is_flag=True,
    help="Store a keyed hash in place of each patient's name; SCREEN_PSEUDONYM_KEY_FILE holds the key.",
)  # fmt: skip


class Pseudonymous:
    """The captures of an archive, in its order, with a pseudonym for the patient's folder in path and patient."""

    def __init__(self, walked: Archive, key: PseudonymKey) -> None:
        self._walked = walked
        self._key = key

    def __iter__(self) -> Iterator[FoundCapture]:
        for capture in self._walked.captures:
            path = self._key.path(capture.path, self._walked.patient_depth)
            patient = self._key.pseudonym(capture.patient)
            alike = self._key.look_alike(capture.patient)
            yield replace(capture, path=path, patient=patient, file=capture.path, look_alike=alike)


def pseudonymous_patients(walked: Archive, key: PseudonymKey) -> list[PatientWithoutCaptures]:
    """The patients without captures, with pseudonyms for their names. A reason that repeats the name, because a folder
    below has it too, becomes the meaning of its code.
    """
    return [
        replace(
            patient,
            patient=key.pseudonym(patient.patient),
            reason=f"{patient.code}: {patient.code.meaning}"
            if repeating(patient.patient)(patient.reason.encode())
            else patient.reason,
        )
        for patient in walked.without_captures
    ]


def pseudonymous_names(walked: Archive, key: PseudonymKey) -> dict[str, list[str]]:
    """The names of skipped files with their first part replaced, because it is most likely a patient's folder."""
    return {
        reason: [key.path(name.encode(), walked.patient_depth).decode() for name in names]
        for reason, names in walked.skipped.items()
    }
