"""Faults 24, 27 and 28, and a month of nights with faults between them beside a month without."""

import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text

from contract.bundle import Bundle
from contract.errors import ExitCode
from contract.states import ReviewAction, Verdict
from db.engine import reading
from db.fsck import fsck
from db.models import Run
from db.recompute import bundle_policy, recompute
from db.report_queue import waiting_rows
from db.review import Opinion, Reviewer, act
from db.run_report import read_run
from tests.faults.conftest import LABELS, Size
from tests.faults.lab import HOSTILE, SLOW, Lab, Worker
from tests.integration.test_clock_back import clock_steps_back
from tests.support.archives import jpeg, write_archive
from tests.support.commands import Environment
from tests.support.servers import RedisServer, empty_database

ANNA = Reviewer("anna", "1.2.3")


def conflicts(lab: Lab, run: int) -> set[str]:
    """The patients whose results say that a capture is also another patient's."""
    return {case.patient for case in read_run(lab.database, run).cases if case.identity_conflict}


def test_a_mix_up_is_told_whatever_later_runs_wait_or_are_cancelled(
    environment: Environment, archive: Path, bundle: Bundle, tmp_path: Path, counted: Callable[..., None]
) -> None:
    """One file under two patients, of which one is screened in a run and the other in the next."""
    own = tmp_path / "own"
    shutil.copytree(archive, own)
    lab = Lab.open(environment, own, bundle)
    (own / "P001" / "mixed.jpg").write_bytes((own / "P000" / "000.jpg").read_bytes())
    run = lab.submit()
    cancelled, waiting = lab.submit("--all"), lab.submit("--all")
    assert lab.environment.screen("cancel", cancelled, "--yes").code == 0
    with lab.worker():
        now = lab.finish(run)
        assert conflicts(lab, run) == {"P000", "P001"}, "told before the run that waits has a result"
        lab.finish(waiting)
    recompute(lab.database, run, bundle_policy(lab.database, run), apply=True, actor="test")
    for one in (run, waiting):
        assert conflicts(lab, one) == {"P000", "P001"}
        lab.check(one)
    counted(24, "one capture under two patients while later runs wait, or are cancelled", captures=now.submitted,
            mix_ups=2, told=len(conflicts(lab, run)))  # fmt: skip


def test_the_databases_clock_steps_back_between_a_sign_off_and_an_override(
    environment: Environment, archive: Path, bundle: Bundle, counted: Callable[..., None]
) -> None:
    """By an hour; then results are overridden, and the same captures are screened again."""
    lab = Lab.open(environment, archive, bundle)
    run = lab.submit(SCREEN_REPORT_AT="sign_off")
    with lab.worker(HOSTILE, **SLOW):
        lab.finish(run)
        benign = [case.case_id for case in read_run(lab.database, run).cases if case.verdict is Verdict.BENIGN]
        for case in benign:
            act(lab.database, case, ReviewAction.CONFIRM, ANNA)
        clock_steps_back(lab.database)
        for case in benign:
            opinion = Opinion(Verdict.ALL, "Pro")
            act(lab.database, case, ReviewAction.OVERRIDE, ANNA, opinion=opinion, comment="blasts")
        lab.check(run)
        again = lab.submit("--all", SCREEN_REPORT_AT="sign_off")
        lab.finish(again)
    for one in (run, again):
        lab.check(one)
    told = [row.verdict for row in waiting_rows(lab.database, limit=1000) if row.case_id in benign]
    assert told == [Verdict.ALL] * (2 * len(benign)), "both rows of each case say what holds now"
    counted(28, "the database's clock an hour back between sign-off and override, simulated", cases=len(benign),
            told_benign=told.count(Verdict.BENIGN))  # fmt: skip


@pytest.mark.timeout(1200)
def test_a_patient_with_very_many_captures_under_a_limit_of_memory(
    environment: Environment, bundle: Bundle, tmp_path: Path, size: Size, counted: Callable[..., None]
) -> None:
    archive = write_archive(tmp_path / "own", {"P001": "Pro", "P002": "Benign"}, 20)
    captures = size.times(50_000, 2_000)
    for number in range(20, captures):
        os.link(archive / "P001" / f"{number % 20:03d}.jpg", archive / "P001" / f"{number:05d}.jpg")
    lab = Lab.open(environment, archive, bundle)
    run = lab.submit(SCREEN_CHUNK_SIZE="256")
    with lab.worker(SCREEN_MEMORY_MIB="1024") as worker:
        now = lab.finish(run, timeout_s=900)
        assert worker.process.poll() is None
    lab.check(run)
    assert (now.screened, now.quarantined) == (captures + 20, 0)
    counted(27, "one patient with very many captures, and 1 GiB of memory", captures=now.submitted,
            quarantined=now.quarantined)  # fmt: skip


@dataclass
class Month:
    """Nights of one archive in one database; each changes the archive in the same way for the same number."""

    lab: Lab
    rng: random.Random

    def change(self, night: int) -> None:
        """What happens to an archive by day: captures come, are replaced and removed; folders are mixed up, renamed."""
        root, rng = self.lab.archive, random.Random(night)
        patients = sorted(folder.name for folder in root.iterdir())
        for patient in rng.sample(patients, 4):
            self._put(root / patient / f"night-{night:02d}.jpg", rng.choice(LABELS), rng.randrange(10**6))
        replaced = root / rng.choice(patients)
        self._put(sorted(replaced.iterdir())[0], rng.choice(LABELS), rng.randrange(10**6))
        shorter = root / rng.choice(patients)
        if len(files := sorted(shorter.iterdir())) > 2:
            files[-1].unlink()
        self._put(root / f"N{night:03d}" / "000.jpg", rng.choice(LABELS), rng.randrange(10**6))
        if night % 3 == 0:
            one, other = (root / name for name in rng.sample(patients, 2))
            shutil.copyfile(sorted(one.iterdir())[0], other / f"mixed-{night:02d}.jpg")
        if night % 4 == 1:
            (root / rng.choice(patients)).rename(root / f"R{night:03d}")
        if night % 5 == 2:
            shutil.rmtree(root / rng.choice([name for name in patients if (root / name).is_dir()]))

    @staticmethod
    def _put(file: Path, label: str, seed: int) -> None:
        file.parent.mkdir(exist_ok=True)
        file.unlink(missing_ok=True)
        file.write_bytes(jpeg(label, seed=seed))

    def sign(self, run: int, night: int) -> None:
        """A reviewer signs some cases, and overrides one."""
        for number, case in enumerate(read_run(self.lab.database, run).cases):
            if case.verdict is None or number % 3:
                continue
            if number == 3 * (night % 2):
                act(self.lab.database, case.case_id, ReviewAction.OVERRIDE, ANNA,
                    opinion=Opinion(Verdict.ALL, "Pro"), comment="blasts")  # fmt: skip
            elif case.verdict in (Verdict.ALL, Verdict.BENIGN):
                act(self.lab.database, case.case_id, ReviewAction.CONFIRM, ANNA)

    def broken(self) -> list[str]:
        """What fsck finds at the end, over all runs."""
        return [
            f"run {run}: {finding.invariant} {finding.examples}"
            for run in self.runs()
            for finding in fsck(self.lab.database, run, grace_s=60)
            if not finding.holds
        ]

    def runs(self) -> list[int]:
        with reading(self.lab.database) as connection:
            return list(connection.execute(select(Run.id).order_by(Run.id)).scalars())

    def told(self) -> list[tuple[Any, ...]]:
        """What other systems hold of each patient. Which row came by which cause depends on who finished first."""
        columns = "patient, run_id, verdict, subtype, signed_off"
        last = f"SELECT {columns} FROM reporting_queue WHERE superseded = 0 ORDER BY patient, run_id"
        with reading(self.lab.database) as connection:
            return [tuple(row) for row in connection.execute(text(last))]

    def results(self) -> list[tuple[Any, ...]]:
        """All results of all nights."""
        return [
            (run, case.patient, case.verdict, case.subtype, case.score, case.submitted, case.screened, case.rejected,
             case.quarantined, bool(case.identity_conflict), case.superseded_by is not None)
            for run in self.runs()
            for case in sorted(read_run(self.lab.database, run).cases, key=lambda case: case.patient)
        ]  # fmt: skip


@contextmanager
def another_database(lab: Lab, postgres: str, name: str) -> Iterator[Environment]:
    """The lab's environment with an empty database of this name beside its own."""
    if lab.database.dialect.name == "sqlite":
        yield replace(lab.environment, database_url=f"sqlite:///{lab.environment.folder}/{name}.db")
        return
    with empty_database(postgres, name) as url:
        yield replace(lab.environment, database_url=url)


def harm(lab: Lab, worker: Worker, redis_server: RedisServer, rng: random.Random) -> Worker:
    """One fault in the middle of a night; returns the worker that runs afterwards."""
    which = rng.randrange(5)
    if which < 4:
        return lab.harm(worker, redis_server, which, redis_away_s=1)
    away = lab.archive.with_name("away")
    lab.archive.rename(away)
    lab.archive.mkdir()
    time.sleep(2)
    lab.archive.rmdir()
    away.rename(lab.archive)
    return worker


def lived(month: Month, nights: int, redis_server: RedisServer | None) -> None:
    """All nights, one after another; with a Redis to do harm to, each with its fault."""
    lab, rng = month.lab, month.rng
    worker = lab.start_worker(HOSTILE, **SLOW)
    try:
        for night in range(nights):
            if night:
                month.change(night)
            everything = ["--all"] if night % 4 == 0 else []
            if redis_server is not None and not everything:
                process = lab.environment.start("submit", lab.archive, "--bundle", lab.bundle.path, log="submit.log")
                time.sleep(rng.uniform(0.5, 3))
                process.kill()
                process.wait()
            run = lab.submit(*everything, exit_codes=(ExitCode.OK, ExitCode.SOME_ENDED_BADLY))
            if redis_server is not None:
                time.sleep(rng.uniform(0, 2))
                worker = harm(lab, worker, redis_server, rng)
            lab.finish(run)
            month.sign(run, night)
            lab.check(run)
    finally:
        worker.kill()


@pytest.mark.timeout(5400)
def test_a_month_of_nights_with_faults_gives_what_a_month_without_gives(
    lab: Lab, tmp_path: Path, postgres: str, redis_server: RedisServer, size: Size, counted: Callable[..., None]
) -> None:
    """Captures come, are replaced and removed, folders are renamed and mixed up, cases are signed, in both months."""
    nights, patients = size.times(30, 5), sorted(folder.name for folder in lab.archive.iterdir())
    months = []
    for name, harmed in (("calm", None), ("harmed", redis_server)):
        archive = tmp_path / name / "archive"
        for patient in patients:
            (archive / patient).mkdir(parents=True)
            for file in sorted((lab.archive / patient).iterdir())[:10]:
                shutil.copy2(file, archive / patient)
        with another_database(lab, postgres, name) as environment:
            month = Month(Lab.open(replace(environment, folder=tmp_path / name), archive, lab.bundle), random.Random(6))
            lived(month, nights, harmed)
            months.append((month.results(), month.told(), month.broken()))
            month.lab.database.dispose()
    (results, told, broken), (results_harmed, told_harmed, broken_harmed) = months
    assert results_harmed == results
    assert told_harmed == told
    assert broken == broken_harmed == []
    counted(35, "a month of nights with a fault in each, beside a month without", nights=nights,
            results=len(results), told=len(told), that_differ=0)  # fmt: skip
