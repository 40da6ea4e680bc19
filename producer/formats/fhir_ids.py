"""Ids and identifiers of FHIR resources: no two databases, archives or cases share one, and a case keeps its own.

A server that stores by id would otherwise overwrite one patient's report with another's.
"""

import json
from dataclasses import dataclass
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from contract.printable import printable
from db.run_report import CaseRow, RunReport

SYSTEM = "urn:slide-screen"
"""The system of our own codes, and the beginning of the systems of our identifiers."""


@dataclass(frozen=True)
class Names:
    """What tells the resources of one run apart from all others: site, database, archive, run.

    The time of submit is part of a case's id, because SQLite gave the numbers of purged rows again before schema 0009.
    """

    site: str | None
    database: str
    root: bytes
    submitted_at: str

    @property
    def _base(self) -> str:
        site = [] if self.site is None else ["site", self.site]
        return ":".join([SYSTEM, *site, "database", self.database])

    @property
    def _archive(self) -> UUID:
        return uuid5(uuid5(NAMESPACE_URL, self._base), self.root.hex())

    def of_archive(self, *parts: str) -> str:
        """The id of something that every run of this archive shares: a patient, a device. A UUID as text, RFC 4122."""
        return str(uuid5(self._archive, json.dumps(parts)))

    def of_case(self, kind: str, case: CaseRow, *parts: str) -> str:
        """The id of a resource of this case."""
        return self.of_archive(kind, case.patient, self.submitted_at, str(case.case_id), *parts)

    def of_run(self, kind: str, run_id: int, *parts: str) -> str:
        """The id of a resource of this run and of none of its cases."""
        return self.of_archive(kind, self.submitted_at, str(run_id), *parts)

    def patient(self, external_id: str) -> list[dict[str, Any]]:
        """The identifier of a patient: the folder's name is unique within its archive alone."""
        return [self._identifier(f"archive:{self._archive}:patient", external_id)]

    def number(self, kind: str, value: int) -> list[dict[str, Any]]:
        """The identifier of a run or a case: its number is unique within its database alone."""
        return [self._identifier(kind, str(value))]

    def _identifier(self, kind: str, value: str) -> dict[str, Any]:
        assigner = {} if self.site is None else {"assigner": {"display": self.site}}
        return {"system": f"{self._base}:{kind}", "value": printable(value), **assigner}


def names_of(report: RunReport) -> Names:
    """The names of this run's resources."""
    return Names(report.run.site, report.database, report.root, report.run.created_at.isoformat())
