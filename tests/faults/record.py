"""What the fault tests counted, and docs/reliability.md from it: `python -m tests.faults.record`."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

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
        file.write_text(json.dumps(asdict(self) | {"cores": os.cpu_count()}, indent=1) + "\n", encoding="utf-8")

    def _slug(self) -> str:
        return "-".join("".join(c if c.isalnum() else " " for c in self.fault.lower()).split()[:6])
