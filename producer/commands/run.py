"""`screen run`: the whole job on one machine; the user starts nothing else before it."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import click
from sqlalchemy import Engine

from contract.archive import walk_archive
from contract.bundle import Bundle
from contract.errors import ExitCode
from contract.names import display_name
from contract.options import patient_depth_option
from contract.settings import Settings, get_settings
from contract.shared_locks import check_shared_locks
from db import schema
from db.engine import open_engine
from db.progress import progress
from db.run_report import read_run
from db.submission import submit as write_run
from producer.alarm import say_alarm
from producer.commands.report import FORMATS, TABLE, beside, exit_code, show
from producer.commands.submit import required_bundle, submit_request
from producer.output import say
from producer.pseudonymous import pseudonymize_option
from producer.publish import check_redis, publish_chunks
from producer.services import bundled_redis, check_alive, embedded_worker
from producer.truth import TrueLabels, read_truth, truth_option
from producer.walked import exit_code as walked_exit_code
from producer.walked import say_walked, say_withdrawn
from producer.watching import follow_run


@click.command()
@click.argument("archive", type=click.Path(path_type=Path))
@click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    envvar="SCREEN_BUNDLE",
    show_envvar=True,
    help="Screen with this bundle instead of the one that SCREEN_BUNDLE names.",
)
@click.option("--all", "everything", is_flag=True, help="Screen all captures, also those that were screened before.")
@click.option(
    "--html", type=click.Path(path_type=Path, dir_okay=False), help="Also write the HTML report to this file."
)
@click.option(
    "--worker-log", type=click.Path(path_type=Path, dir_okay=False), default=Path("screening-worker.log"),
    show_default=True, help="Write the worker's log lines to this file.",
)  # fmt: skip
@patient_depth_option()
@pseudonymize_option
@truth_option
def run(
    archive: Path,
    bundle: Path | None,
    everything: bool,
    pseudonymize: bool,
    html: Path | None,
    worker_log: Path,
    patient_depth: int,
    truth: Path | None,
) -> ExitCode:
    """Screen ARCHIVE on this machine: Redis, a worker, submit, watch, report, and clean up.

    Results go to ./screening.db unless SCREEN_DATABASE_URL says otherwise. If SCREEN_REDIS_URL is set, that Redis is
    used instead of a bundled one.

    Exits 1 if captures were rejected or quarantined, patients have no captures, or most captures of most patients do
    not count; it then says what to do, at the beginning and at the end of the report.
    """
    settings = get_settings()
    check_shared_locks()
    true_labels = read_truth(truth) if truth else None
    opened = Bundle.open(required_bundle(bundle))
    walked = walk_archive(archive, patient_depth)
    say_walked(walked)
    request = submit_request(walked, opened, settings, everything=everything, pseudonymize=pseudonymize)
    if true_labels is not None:
        true_labels.check_labels(opened.manifest.labels)
        true_labels.check_patients(display_name(capture.patient) for capture in request.captures)
    database = open_engine(settings.database_url)
    if _names_redis(settings):
        check_redis(settings.redis_url, must_answer=True)
    schema.upgrade(database)
    submission = write_run(database, request)
    say_withdrawn(submission.plan)
    run_id = submission.run_id
    assert run_id is not None
    say(f"run {run_id}" if submission.created else f"nothing new since run {run_id}")
    if not progress(database, run_id).finished:
        with _services(worker_log) as (redis_url, alive):
            publish_chunks(redis_url, database, submission.chunk_ids)
            try:
                say("\n".join(follow_run(database, run_id, alive).accounts))
            except KeyboardInterrupt:
                say("stopping: the worker finishes its current chunk first; the same command continues from there")
                raise
    reported = _report(database, run_id, html, true_labels)
    return reported or walked_exit_code(walked, submission.plan)


def _names_redis(settings: Settings) -> bool:
    """Whether SCREEN_REDIS_URL is set; otherwise a bundled Redis is used."""
    return "redis_url" in settings.model_fields_set


@contextlib.contextmanager
def _services(worker_log: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    with contextlib.ExitStack() as stack:
        settings = get_settings()
        uses_bundled_redis = not _names_redis(settings)
        redis_url = stack.enter_context(bundled_redis()) if uses_bundled_redis else settings.redis_url
        environment = {"SCREEN_REDIS_URL": redis_url}
        if uses_bundled_redis:  # a fresh Redis holds no message of an interrupted run: send its chunks again at once
            environment["SCREEN_REPUBLISH_SECONDS"] = "1"
        worker = stack.enter_context(embedded_worker(environment, worker_log))
        yield redis_url, lambda: check_alive(worker, worker_log)


def _report(database: Engine, run_id: int, html: Path | None, truth: TrueLabels | None) -> ExitCode:
    file_format = FORMATS["html"]
    read = read_run(database, run_id, file_format.evidence if html else None)
    labels = beside(truth, read)
    show(read, FORMATS[TABLE], labels)
    if html is not None:
        file_format.write(read, html, labels)
        say(f"report: {html}")
    say_alarm(read.implausible)  # the table may have pushed it off the screen
    return exit_code(read)
