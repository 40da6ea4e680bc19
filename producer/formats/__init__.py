"""The formats of a run's export: one module for each format, and its name in `load_formats`.

A format is a function of what `db.run_report.read_run` read in one transaction; it makes no query of its own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from contract.errors import UsageError
from contract.files import write_whole
from db.run_report import EvidenceLimits, RunReport

Truth = Mapping[str, str]
"""The name of a patient's folder -> the patient's true label, where it is known."""


@dataclass(frozen=True)
class ExportFormat:
    """A format of `screen report`: `--NAME` prints it on stdout, or, with `to_file`, `--NAME FILE` writes it.

    `render` makes its text. `evidence` says which captures it shows. With `says_warnings` the text itself contains the
    warning about an implausible run and the bundle's notice; otherwise stderr has them. Without `takes_truth` it cannot
    contain true labels. With `is_utf8` its bytes on stdout are UTF-8 even where stdout has another encoding.
    """

    name: str
    help: str
    to_file: bool
    render: Callable[[RunReport, Truth | None], str]
    evidence: EvidenceLimits | None = None
    says_warnings: bool = False
    takes_truth: bool = True
    is_utf8: bool = False

    @property
    def parameter(self) -> str:
        """The name of its option within Python."""
        return self.name.replace("-", "_")

    def check(self, truth: object | None) -> None:
        """Raise UsageError for true labels where the format cannot contain them."""
        if truth is not None and not self.takes_truth:
            raise UsageError(
                f"--{self.name} goes to other systems and takes no --truth; leave it out, or call it alone"
            )

    def write(self, report: RunReport, file: Path, truth: Truth | None) -> None:
        """Write the file, whole or not at all."""
        write_whole(file, self.render(report, truth))


def load_formats() -> dict[str, ExportFormat]:
    """All formats by name. Their modules are imported only here, not for every command."""
    from producer.formats import csv, csv_excel, fhir, html, json, table

    formats = (table.FORMAT, json.FORMAT, csv.FORMAT, csv_excel.FORMAT, html.FORMAT, fhir.FORMAT)
    return {export_format.name: export_format for export_format in formats}
