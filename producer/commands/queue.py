"""`screen queue`: other systems take results, acknowledge them when delivered, or release them."""

import socket
from collections.abc import Sequence
from dataclasses import asdict

import click
from sqlalchemy import Engine

from contract.errors import ExitCode
from contract.printable import refuse_unprintable
from contract.settings import get_settings
from db import report_queue as results
from db.schema import open_database
from producer.output import CSV, ID, csv_out, json_out, output_options, plain, say, stdout, table

COLUMNS = (
    "queue_id", "cause", "replaces_id", "superseded", "superseded_by", "created_at", "taken_by", "taken_until",
    "run_id", "case_id", "patient", "verdict", "subtype", "signed_off", "closed_at", "score", "score_low", "score_high",
    "reasons", "submitted", "screened", "excluded", "bundle_name", "bundle_digest", "software_version",
    "bundle_warnings", "in_training", "archive", "site", "database",
)  # fmt: skip

consumer_option = click.option(
    "--consumer", default=socket.gethostname, show_default="the machine's name",
    callback=lambda _context, _option, name: refuse_unprintable("the consumer's name", name),
    help="Name the consumer; only the consumer that took a result can acknowledge it.",
)  # fmt: skip
ids_argument = click.argument("ids", type=ID, nargs=-1, required=True)


@click.group()
def queue() -> None:
    """Results for a laboratory information system: take them, deliver them, acknowledge them.

    Each result is there once; a corrected result is a new row that names the row it replaces. docs/data.md has the same
    steps as SQL. Results are proposals for review until `signed_off` says otherwise.
    """


def _database() -> Engine:
    return open_database(get_settings().database_url)


@queue.command("list")
@click.option(
    "--limit", type=click.IntRange(1), default=50, show_default=True, help="Show or take at most this many results."
)
@output_options
def list_(limit: int, output: str) -> ExitCode:
    """List the results that are not acknowledged yet, the oldest first, also those that a consumer has taken."""
    return _show(results.waiting_rows(_database(), limit=limit), output, "nothing waits in the reporting queue")


@queue.command()
@click.option(
    "--limit",
    type=click.IntRange(1, 10_000),
    default=100,
    show_default=True,
    help="Show or take at most this many results.",
)
@click.option(
    "--hold", type=click.FloatRange(min=1), default=300, show_default=True,
    help="Let others take the results after this many seconds without an acknowledgement.",
)  # fmt: skip
@consumer_option
@output_options
def take(limit: int, hold: float, consumer: str, output: str) -> ExitCode:
    """Take results that no consumer has, the oldest first."""
    return _show(
        results.take(_database(), consumer, limit=limit, hold_s=hold), output, "nothing to take in the reporting queue"
    )


@queue.command()
@ids_argument
@consumer_option
@click.option("--json", "as_json", is_flag=True, help="Print what happened to each result as JSON on stdout.")
def ack(ids: tuple[int, ...], consumer: str, as_json: bool) -> ExitCode:
    """Say that the results with these queue ids are delivered: no consumer gets them again."""
    return _print_answer(results.acknowledge(_database(), consumer, ids), "acknowledged", as_json)


@queue.command()
@ids_argument
@consumer_option
@click.option("--json", "as_json", is_flag=True, help="Print what happened to each result as JSON on stdout.")
def release(ids: tuple[int, ...], consumer: str, as_json: bool) -> ExitCode:
    """Give the results with these queue ids back, so that any consumer can take them."""
    return _print_answer(results.release(_database(), consumer, ids), "released", as_json)


def _show(rows: Sequence[results.QueuedResult], output: str, nothing: str) -> ExitCode:
    if output == "json":
        json_out([asdict(row) for row in rows])
    elif output in CSV:
        csv_out([asdict(row) for row in rows], COLUMNS, output)
    elif not rows:
        say(nothing)
    else:
        shown = table(
            None, ("id", "patient", "verdict", "subtype", "signed", "why", "replaces", "taken by"),
            right=("id", "replaces"), fold=("patient", "taken by"),
        )  # fmt: skip
        for row in rows:
            shown.add_row(
                str(row.queue_id), plain(row.patient), row.verdict, plain(row.subtype),
                "yes" if row.signed_off else "no", row.cause, str(row.replaces_id or ""),
                plain(row.taken_by),
            )  # fmt: skip
        stdout.print(shown)
        say("Proposals for review, unless signed.")
    return ExitCode.OK


def _print_answer(answer: results.Answer, done: str, as_json: bool) -> ExitCode:
    if as_json:
        json_out({done: answer.done, "refused": answer.refused})
    else:
        say(f"{len(answer.done)} {done}")
    for queue_id, why in answer.refused.items():
        say(f"not {done}: {queue_id} {why}", "red")
    return ExitCode.USAGE if answer.refused else ExitCode.OK
