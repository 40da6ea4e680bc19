"""`screen run`: the whole job on one machine; the user starts nothing else before it."""

import contextlib
from pathlib import Path

import click
from sqlalchemy import Engine

from contract import here
from contract.archive import walk_archive
from contract.bundle import Bundle
from contract.bundle_signature import require_signature
from contract.errors import ExitCode
from contract.names import display_name
from contract.options import patient_depth_option
from contract.outputs import AppendedFile, OutputFile
from contract.settings import Settings, get_settings
from contract.shared_locks import check_shared_locks
from db import schema
from db.control import take_up
from db.engine import check_place, open_engine
from db.progress import progress
from db.run_report import read_run
from db.submission import submit as write_run
from producer.alarm import say_alarm
from producer.commands.report import FORMATS, TABLE, beside, exit_code, show
from producer.commands.submit import required_bundle, submit_request
from producer.output import login_name, say
from producer.patience import Outage, Patience
from producer.pseudonymous import pseudonymize_option
from producer.publish import check_redis, publish_chunks
from producer.services import Child, bundled_redis, embedded_worker
from producer.truth import TrueLabels, read_truth, truth_option
from producer.walked import exit_code as walked_exit_code
from producer.walked import say_names_kept, say_read_again, say_walked, say_withdrawn, verify_option
from producer.watching import follow_run

WORKER_LOG = Path("screening-worker.log")
"""In the current folder."""


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
@verify_option
@click.option("--html", type=OutputFile(), help="Also write the HTML report to this file.")
@click.option(
    "--worker-log", type=AppendedFile(), default=WORKER_LOG,
    show_default=True, help="Write the worker's log lines to this file.",
)  # fmt: skip
@patient_depth_option()
@pseudonymize_option
@truth_option
def run(
    archive: Path,
    bundle: Path | None,
    everything: bool,
    verify: bool,
    pseudonymize: bool,
    html: Path | None,
    worker_log: Path,
    patient_depth: int,
    truth: Path | None,
) -> ExitCode:
    """Screen ARCHIVE on this machine: Redis, a worker, submit, watch, report, and clean up.

    Results go to ./screening.db unless SCREEN_DATABASE_URL says otherwise. If SCREEN_REDIS_URL is set, that Redis is
    used instead of a bundled one.

    Exits 1 if captures were rejected, quarantined or held, patients have no captures, or most captures of most patients
    do not count; it then says what to do, at the beginning and at the end of the report.
    """
    settings = get_settings()
    _check_default_files(archive, settings, worker_log)
    check_shared_locks()
    true_labels = read_truth(truth) if truth else None
    opened = Bundle.open(required_bundle(bundle))
    require_signature(opened, settings.trusted_keys)
    database = open_engine(settings.database_url)
    check_place(database)  # before the walk, which may take long
    walked = walk_archive(archive, patient_depth)
    say_walked(walked, hide_names=pseudonymize)
    request = submit_request(walked, opened, settings, everything=everything, verify=verify, pseudonymize=pseudonymize)
    if true_labels is not None:
        true_labels.check_labels(opened.manifest.labels)
        true_labels.check_patients(display_name(capture.patient) for capture in request.captures)
    if _names_redis(settings):
        check_redis(settings.redis_url, must_answer=True)
    schema.upgrade(database)
    say_names_kept(database, request)
    submission = write_run(database, request)
    say_withdrawn(submission.plan)
    say_read_again(submission.plan.read_again)
    run_id = submission.run_id
    assert run_id is not None
    say(f"run {run_id}" if submission.created else f"nothing new since run {run_id}")
    now = progress(database, run_id)
    if not (now.finished or now.cancelled):
        _screen(database, run_id, settings, worker_log)
    reported = _report(database, run_id, html, true_labels)
    return reported or walked_exit_code(walked, submission.plan)


def _check_default_files(archive: Path, settings: Settings, worker_log: Path) -> None:
    """Raise SettingsError where a file that nobody named could be somebody else's."""
    if database := here.default_database(settings):
        here.refuse_inside(archive, database, here.DATABASE)
    if worker_log == WORKER_LOG:
        here.refuse_inside(archive, worker_log, "--worker-log")
        here.refuse_foreign(worker_log, "--worker-log")


def _names_redis(settings: Settings) -> bool:
    """Whether SCREEN_REDIS_URL is set; otherwise a bundled Redis is used."""
    return "redis_url" in settings.model_fields_set


def _screen(database: Engine, run_id: int, settings: Settings, worker_log: Path) -> None:
    """Screen what is left of a run, with a worker of this process and, if none is named, a Redis of this process."""
    chunk_ids = take_up(database, run_id, actor=login_name())
    with contextlib.ExitStack() as stack:
        redis_url, environment = settings.redis_url, dict[str, str]()
        children: list[Child] = []
        if not _names_redis(settings):
            redis = stack.enter_context(bundled_redis())
            redis_url, children = redis.url, [redis.child]
            # What this Redis does not hold is in no other queue either: it is sent again at once.
            environment = {"SCREEN_REDIS_URL": redis_url, "SCREEN_REPUBLISH_SECONDS": "1"}
        publish_chunks(redis_url, database, chunk_ids)  # before the worker, which waits for a Redis that is away
        worker = stack.enter_context(embedded_worker(environment, worker_log))
        patience = Patience(database, redis_url, worker, [*children, worker], settings)
        try:
            last = follow_run(database, run_id, Outage(settings.patience_seconds), patience)
            for account in last.accounts:
                say(account)
            if held := last.held_sentence(run_id):
                say(held, "bold yellow")
        except KeyboardInterrupt:
            say("stopping: the worker finishes its current chunk first")
            raise


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
