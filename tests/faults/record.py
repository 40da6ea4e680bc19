"""What the fault tests counted, and docs/reliability.md from it: `python -m tests.faults.record`."""

import json
import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from docs.markdown import markdown

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"


@dataclass(frozen=True)
class Record:
    """One fault on one database: what was done, and what was counted."""

    number: int
    fault: str
    database: str
    figures: dict[str, Any]

    def line(self) -> str:
        counted = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in self.figures.items())
        return f"fault {self.number} on {self.database}: {self.fault}: {counted}"

    def write(self) -> None:
        RESULTS.mkdir(exist_ok=True)
        file = RESULTS / f"{self.number:02d}-{self.database}-{self._slug()}.json"
        file.write_text(
            json.dumps(asdict(self) | {"cores": os.cpu_count(), "day": f"{datetime.now(UTC):%Y-%m-%d}"}, indent=1)
            + "\n",
            encoding="utf-8",
        )

    def _slug(self) -> str:
        return "-".join("".join(c if c.isalnum() or c in "+-" else " " for c in self.fault.lower()).split())


INTRODUCTION = """# Reliability

Made by `make faults` from what its tests counted; no number here is typed by hand. Each fault is done to real
processes (worker, Redis, PostgreSQL or SQLite) that screen 20 patients with 2,000 tiny captures, or fewer where the
row says so; 8 and 9 are done to the database's functions alone; the crash, the hunger for memory, the hang, the wrong
clock and the deaths at a commit of 10, 13 and 30 are put into the worker by hand; for the clock of 28 and 31, which
steps back, the stored times are moved ahead. After each, `screen fsck` must find nothing lost and nothing twice and,
where the fault leaves the captures as they are, no row that differs from a run without it. 35 is a month of nights:
the archive changes every day, cases are signed, and every night has its fault; all results are compared with those of
the same month without faults. 36 are bundles that were made to harm, given to commands and to a worker. `make test`
does the same to 300 captures (five nights), on PostgreSQL, backups on SQLite too. How it works:
[architecture.md](architecture.md), "Why nothing is lost".
"""
NOT_YET = """
What has no row here was not done at full size yet.
"""


def page() -> str:
    """docs/reliability.md, from whatever results there are."""
    rows = []
    for file in sorted(RESULTS.glob("*.json")):
        found = json.loads(file.read_text(encoding="utf-8"))
        counted = ", ".join(f"{name.replace('_', ' ')} {_shown(value)}" for name, value in found["figures"].items())
        database = "no database" if found["database"] == "none" else found["database"]
        where = f"{database}, {found['cores']} cores, {found['day']}"
        rows.append((str(found["number"]), found["fault"], where, counted))
    return "\n".join([INTRODUCTION, markdown(("", "fault", "database", "counted"), rows), NOT_YET])


def _shown(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
