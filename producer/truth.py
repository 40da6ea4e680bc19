"""True labels beside the results, where they are known: in the demo, or for a reviewed archive."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from contract.errors import DataError, UsageError
from contract.names import alike, cleaned, first_of, the_one_meant
from contract.states import Verdict
from contract.tables import Row, read_table
from db.run_report import CaseRow
from producer.output import say

_SHOWN = 3
"""How many patients or labels that do not fit a warning names."""

truth_option = click.option(
    "--truth",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Show the true label beside each result, from a labels.csv with the columns patient and label.",
)


def is_right(case: CaseRow, label: str, benign_label: str) -> bool:
    """Whether the proposal matches the true label: benign, or ALL with exactly this subtype."""
    if case.verdict is Verdict.ALL:
        return case.subtype == label
    return case.verdict is Verdict.BENIGN and label == benign_label


@dataclass(frozen=True)
class TrueLabels:
    """The label of each patient that a table names, both as the table writes them."""

    file: Path
    labels: Mapping[str, str]
    warnings: tuple[str, ...] = ()

    def check_labels(self, known: Sequence[str]) -> None:
        """Raise UsageError if the bundle knows none of the labels: each result would be called wrong."""
        written = list(dict.fromkeys(self.labels.values()))
        if not any(the_one_meant(label, known) for label in written):
            raise UsageError(
                f"{self.file}: the bundle knows none of its labels ({_first(written)}); its labels are "
                f"{', '.join(known)}. Name a table with these"
            )

    def check_patients(self, patients: Iterable[str]) -> None:
        """Raise UsageError if no patient of the table is among `patients`: it is of another archive."""
        known = set(patients)
        if not self._in(known):
            raise UsageError(
                f"{self.file}: none of its patients ({_first(self.labels)}) is in this archive{self._hint(known)}; "
                "name this archive's table, with patients as reports name them: by their folder, or their pseudonym"
            )

    def of(self, patients: Iterable[str], known: Sequence[str]) -> dict[str, str]:
        """Patient of a run -> true label, in the spelling of the bundle's labels `known`. Warns on stderr of what does
        not fit. Raises UsageError as `check_labels`.
        """
        self.check_labels(known)
        of_run = set(patients)
        folders = self._in(of_run)
        for warning in self.warnings:
            say(warning, "yellow")
        if absent := [patient for patient in self.labels if patient not in folders]:
            say(f"{self.file}: patients who are not in this run: {_first(absent)}{self._hint(of_run)}", "yellow")
        labels = {patient: the_one_meant(label, known) for patient, label in self.labels.items()}
        if unknown := list(dict.fromkeys(self.labels[patient] for patient, label in labels.items() if label is None)):
            say(
                f"{self.file}: labels that the bundle does not know, so that no result is right: {_first(unknown)}",
                "yellow",
            )
        return {folder: labels[patient] or self.labels[patient] for patient, folder in folders.items()}

    def _in(self, of_run: set[str]) -> dict[str, str]:
        """Patient as the table writes them -> their folder: of the same name, or the only one that is when cleaned."""
        by_cleaned: dict[str, list[str]] = {}
        for folder in of_run:
            by_cleaned.setdefault(cleaned(folder), []).append(folder)
        folder_of = {}
        for patient in self.labels:
            folders = [patient] if patient in of_run else by_cleaned.get(patient, [])
            if len(folders) == 1:
                folder_of[patient] = folders[0]
        return folder_of

    def _hint(self, of_run: set[str]) -> str:
        """Names folders that are written only nearly like patients of the table, as a part of a sentence, or ""."""
        by_shape = {alike(folder): folder for folder in sorted(of_run)}
        near = [(by_shape[alike(name)], name) for name in self.labels if name not in of_run and alike(name) in by_shape]
        return f" (there is {near[0][0]!r}, the table says {near[0][1]!r})" if near else ""


def _first(names: Iterable[str]) -> str:
    return first_of(list(map(repr, names)), _SHOWN)


def read_truth(path: Path) -> TrueLabels:
    """The labels of a labels.csv by patient. Raises DataError where it cannot be read, or two lines contradict."""
    table = read_table(path, needed=("patient", "label"), beside=("path", "split", "site"))
    table.refuse_lookalikes("patient", "patient")
    first: dict[str, Row] = {}
    for row in table.rows:
        if not row["patient"] or not row["label"]:
            raise DataError(f"{table.at(row.line)}: patient or label is empty; fill it or take the line out")
        earlier = first.setdefault(row["patient"], row)
        if alike(earlier["label"]) != alike(row["label"]):
            raise DataError(
                f"{table.at(earlier.line, row.line)}: patient {row['patient']} has two labels, {earlier['label']} and "
                f"{row['label']}; correct one of them"
            )
    return TrueLabels(path, {patient: row["label"] for patient, row in first.items()}, table.warnings)
