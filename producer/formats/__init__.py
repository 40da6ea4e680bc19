"""What a run can be exported as: one module for each format, and one line in FORMATS.

A format is a function of what `db.run_report.read_run` read in one transaction; it asks the database nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from contract.errors import UsageError
from contract.files import write_whole
from db.run_report import EvidenceLimits, RunReport

Truth = Mapping[str, str]
"""True label of each patient who is known, by the name of the folder."""


@dataclass(frozen=True)
class ExportFormat:
    """A format, as `screen report` offers it: `--NAME` prints it on stdout, or, `to_file`, `--NAME FILE` writes it.

    `render` makes its text. `evidence` says which captures it shows. With `says_warnings` the text itself says that a
    run cannot be believed, and what the bundle's notice is; else stderr does. Without `takes_truth` true labels have no
    place in it.
    """

    name: str
    help: str
    to_file: bool
    render: Callable[[RunReport, Truth | None], str]
    evidence: EvidenceLimits | None = None
    says_warnings: bool = False
    takes_truth: bool = True

    def check(self, truth: Truth | None) -> None:
        """Raises UsageError for true labels where they have no place."""
        if truth is not None and not self.takes_truth:
            raise UsageError(
                f"--{self.name} goes to other systems and takes no --truth; leave it out, or call it alone"
            )

    def write(self, report: RunReport, file: Path, truth: Truth | None) -> None:
        """Write the file, whole or not at all."""
        write_whole(file, self.render(report, truth))


def load_formats() -> dict[str, ExportFormat]:
    """All formats by name. Their modules are imported here, and not for every command."""
    from producer.formats import csv, fhir, html, json, table

    return {found.name: found for found in (table.FORMAT, json.FORMAT, csv.FORMAT, html.FORMAT, fhir.FORMAT)}
