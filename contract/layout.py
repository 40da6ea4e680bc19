"""Whether the folders that were taken for patients look as if the patients lay deeper: ARCHIVE/date/patient/..."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

_YEAR, _MONTH, _DAY = r"(?:19|20)\d\d", r"(?:0[1-9]|1[0-2])", r"(?:0[1-9]|[12]\d|3[01])"
_DATE = re.compile(
    rf"{_YEAR}(?:[-_. ]{_MONTH})?"
    rf"|{_YEAR}(?P<between>[-_. ]?){_MONTH}(?P=between){_DAY}(?:\D+)?"  # no digits after it: 19450312-1234 is a person
    r"|(?:0?[1-9]|[12]\d|3[01])[-_. ](?:0?[1-9]|1[0-2])[-_. ](?:(?:19|20)\d\d|\d\d)"
    rf"|(?:\d\d?[-_. ]*)?(?:jan|feb|mar|apr|ma[iy]|jun|jul|aug|sep|o[ck]t|nov|de[cz])[a-z]*[-_. ]*{_YEAR}",
    re.IGNORECASE,
)


def is_date(name: bytes) -> bool:
    """Whether a folder's name is a date: `2026-11-23`, `20261123 evening`, `23.11.2026`, `2026-11`, `Nov 2026`."""
    return _DATE.fullmatch(name.decode("utf-8", "replace").strip()) is not None


@dataclass
class Layout:
    """How the folders of an archive's patients are built, counted over those with captures.

    `nested` ones hold no capture themselves, only in folders below; `several` of these have more than one such folder.
    """

    patients: int = 0
    dated: int = 0
    nested: int = 0
    several: int = 0

    def add(self, patient: bytes, captures: Iterable[bytes]) -> None:
        """Count one more patient: `captures` are the paths of its captures, which begin with the path `patient`."""
        start, has_own, folders = len(patient) + 1, False, set()
        for path in captures:
            folder, slash, _ = path[start:].partition(b"/")
            if slash:
                folders.add(folder)
            else:
                has_own = True
        self.patients += 1
        self.dated += is_date(patient.rpartition(b"/")[2])
        self.nested += not has_own
        self.several += not has_own and len(folders) > 1

    def doubt(self, patient_depth: int) -> str | None:
        """Why the patients may lie deeper than `patient_depth` levels below the archive, and what to do; or None."""
        deeper = f"if the folders in them are the patients, submit with --patient-depth {patient_depth + 1}"
        if self.patients and self.dated == self.patients:
            what = deeper if self.nested else "if they hold captures of several patients, make a folder for each"
            return f"every folder that was taken for a patient has a date as its name; {what}"
        if self.patients and self.several == self.patients:
            return (
                "every folder that was taken for a patient holds several folders with captures, and no capture itself; "
                f"{deeper}"
            )
        return None
