"""Commands about runs that somebody stops, or compares, and about a folder without a database."""

from pathlib import Path

import pytest
from sqlalchemy import update

from contract.bundle import Bundle
from db.engine import open_engine, writing
from db.models import BundleRow, Run
from tests.integration.test_superseded import screened
from tests.support.commands import Environment


def test_a_run_with_results_is_cancelled_only_by_who_says_yes(environment: Environment, bundle: Bundle) -> None:
    environment.screen("db", "upgrade")
    screened(open_engine(environment.database_url), bundle)
    refused = environment.screen("cancel", "1")
    assert refused.code == 2
    assert "run 1 has 1 case with a result" in refused.err
    assert "give --yes" in refused.err
    assert environment.screen("cancel", "1", "--yes").code == 0
    listed = environment.screen("review", "list", "--json")
    assert '"case_id": 1' in listed.out, "what is finished is still to be reviewed"
    assert environment.screen("cancel", "1").code == 0, "it is cancelled already, so there is nothing to ask"


def test_a_run_is_not_checked_against_one_of_another_bundle(environment: Environment, bundle: Bundle) -> None:
    environment.screen("db", "upgrade")
    database = open_engine(environment.database_url)
    screened(database, bundle)
    screened(database, bundle)
    assert environment.screen("fsck", "2", "--against", "1").code == 0
    with writing(database) as connection:
        manifest = bundle.manifest.model_dump(mode="json")
        connection.execute(BundleRow.__table__.insert().values(digest="other", name="b", path="/b", manifest=manifest))
        connection.execute(update(Run).where(Run.id == 2).values(bundle_digest="other"))
    refused = environment.screen("fsck", "2", "--against", "1")
    assert refused.code == 2
    assert "screen compare-runs 1 2" in refused.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("status",), ("report", "1"), ("watch", "1"), ("fsck", "1"), ("compare-runs", "1", "2"), ("review", "list"),
        ("queue", "list"), ("db", "check"), ("recompute", "1"), ("cancel", "1"), ("purge", "--older-than", "1d"),
    ],
)  # fmt: skip
def test_a_folder_without_a_database_stays_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    from producer.cli import _exit_code

    monkeypatch.chdir(tmp_path)
    assert _exit_code(list(arguments)) == 2
    assert "there is no database screening.db here" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
