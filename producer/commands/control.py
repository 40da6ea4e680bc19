"""`screen cancel`, `screen resume`, `screen retry`."""

import sys
from collections.abc import Sequence

import click
from sqlalchemy import Engine

from contract.errors import BrokerUnavailable, ExitCode, UsageError
from contract.settings import Settings, get_settings
from contract.states import CaptureState
from db import control
from db.schema import open_database
from producer.output import ID, login_name, say
from producer.publish import check_redis, publish_chunks


@click.command()
@click.argument("run", type=ID)
@click.option("--yes", is_flag=True, help="Do not ask first; needed if cases are finished and there is no terminal.")
def cancel(run: int, yes: bool) -> ExitCode:
    """Cancel RUN: workers get no more of its chunks. They finish their current chunks, and nothing is deleted.

    If cases of the run are finished, it says how many and asks first; they stay in the review queue.
    """
    _, database = _opened()
    if not yes:
        _ask(run, control.finished_cases(database, run))
    changed = control.cancel(database, run, actor=login_name())
    say(f"run {run} is cancelled" if changed else f"run {run} was cancelled before")
    say(f"`screen resume {run}` continues it")
    return ExitCode.OK


@click.command()
@click.argument("run", type=ID)
def resume(run: int) -> ExitCode:
    """Continue RUN after `screen cancel`, release its chunks that are held, or send its pending chunks once more."""
    settings, database = _opened()
    check_redis(settings.redis_url)
    chunk_ids = control.resume(database, run, actor=login_name())
    _publish(settings, database, run, chunk_ids)
    say(f"run {run} goes on: {len(chunk_ids)} chunks are pending")
    return ExitCode.OK


@click.command()
@click.argument("run", type=ID)
@click.option(
    "--rejected", is_flag=True, help="Screen the rejected captures again; without this and --quarantined, both kinds."
)
@click.option("--quarantined", is_flag=True, help="Screen the quarantined captures again.")
@click.option("--case", "case_id", type=ID, metavar="ID", help="Screen only captures of this case again.")
def retry(run: int, rejected: bool, quarantined: bool, case_id: int | None) -> ExitCode:
    """Screen captures of RUN again that were rejected or quarantined, for example after the storage was repaired.

    Their cases are open until the captures have ended; then each has a new result, which replaces the old one in the
    reporting queue. A case that a reviewer has signed stays as it is. A file that was changed after the submit stays
    rejected: submit the folder again.
    """
    settings, database = _opened()
    check_redis(settings.redis_url)
    states = [
        state
        for state, is_chosen in ((CaptureState.REJECTED, rejected), (CaptureState.QUARANTINED, quarantined))
        if is_chosen or not (rejected or quarantined)
    ]
    retried = control.retry(
        database, run, states=states, case_id=case_id, chunk_size=settings.chunk_size, actor=login_name()
    )
    if retried.reviewed:
        cases = ", ".join(map(str, retried.reviewed))
        say(f"left as they are, because a reviewer has signed them: cases {cases}", "yellow")
    if not retried.captures:
        say(f"run {run}: no capture to try again")
        return ExitCode.OK
    say(f"run {run}: {retried.captures} captures of {retried.cases} cases are tried again")
    _publish(settings, database, run, retried.chunk_ids)
    return ExitCode.OK


def _ask(run: int, finished: int | None) -> None:
    if not finished:
        return
    cases = f"{finished} case{'s' if finished > 1 else ''}"
    if not sys.stdin.isatty():
        raise UsageError(
            f"run {run} has {cases} with a result, which stay in the review queue; there is no terminal to ask on: "
            "give --yes to cancel the run all the same"
        )
    click.confirm(
        f"Run {run} has {cases} with a result, which stay in the review queue. Cancel it?", abort=True, err=True
    )


def _opened() -> tuple[Settings, Engine]:
    settings = get_settings()
    database = open_database(settings.database_url)
    return settings, database


def _publish(settings: Settings, database: Engine, run: int, chunk_ids: Sequence[int]) -> None:
    try:
        publish_chunks(settings.redis_url, database, chunk_ids)
    except BrokerUnavailable as error:
        raise BrokerUnavailable(
            f"{error}. It is stored all the same: a worker sends the chunks of run {run} as soon as it reaches Redis"
        ) from error
