"""How much harm is done, and where the counts go.

`make test` runs every fault at a small size; `make faults` at the sizes that docs/reliability.md states, and writes its
figures.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from contract.bundle import Bundle
from tests.faults.lab import Lab
from tests.faults.record import Record
from tests.support.archives import write_archive
from tests.support.commands import Environment

LABELS = ("Benign", "Early", "Pre", "Pro")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """At small size each fault is done on PostgreSQL, and on SQLite only what is marked or has no other database."""
    if config.getoption("--full-faults"):
        return
    here = [item for item in items if Path(__file__).parent in item.path.parents]
    left_out = [item for item in here if _database(item) == "sqlite" and not item.get_closest_marker("both_databases")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def _database(item: pytest.Item) -> str:
    callspec = getattr(item, "callspec", None)
    return "postgresql" if callspec is None else callspec.params.get("database_url", "postgresql")


@dataclass(frozen=True)
class Size:
    """Captures of each of 20 patients, and whether faults are as many as docs/reliability.md states."""

    captures: int
    full: bool

    def times(self, full: int, small: int) -> int:
        return full if self.full else small


@pytest.fixture(scope="session")
def size(request: pytest.FixtureRequest) -> Size:
    full = request.config.getoption("--full-faults")
    return Size(100, True) if full else Size(15, False)


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory, size: Size) -> Path:
    """20 patients; nobody may change it."""
    patients = {f"P{number:03d}": LABELS[number % 4] for number in range(20)}
    return write_archive(tmp_path_factory.mktemp("faults") / "archive", patients, size.captures)


@pytest.fixture
def lab(environment: Environment, archive: Path, bundle: Bundle) -> Lab:
    """On SQLite and again on PostgreSQL."""
    return Lab.open(environment, archive, bundle)


@pytest.fixture
def counted(request: pytest.FixtureRequest, size: Size) -> Callable[..., None]:
    """`counted(number, "what was done", name=value, ...)`: prints what a test counted, and keeps it in a full run.

    `on` names the database where the test has no `lab` that says it.
    """

    def note(number: int, fault: str, *, on: str | None = None, **figures: object) -> None:
        record = Record(number, fault, on or _database(request.node), figures)
        print(record.line())
        if size.full:
            record.write()

    return note
