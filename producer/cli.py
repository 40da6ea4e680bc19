"""The `screen` command: finds subcommands by name, imports each when it is called, and turns errors into exit codes."""

import errno
import io
import os
import shlex
import sys
from collections.abc import Sequence
from importlib.metadata import version
from tempfile import gettempdir

import click

from contract import here
from contract.errors import ExitCode, ScreeningError
from contract.logs import configure_logging, traceback_of
from contract.outputs import YOURS_TO_MEND
from contract.printable import printable_lines
from contract.settings import Settings, get_settings
from producer.lazy import Lazy, LazyGroup

SECTIONS = {
    "Screen": {
        "run": Lazy("producer.commands.run:run", "Screen an archive from start to end on this machine alone."),
        "submit": Lazy("producer.commands.submit:submit", "Put an archive of captures on the queue."),
        "watch": Lazy("producer.commands.watch:watch", "Follow a run until it is finished."),
        "status": Lazy("producer.commands.status:status", "List the runs and their progress."),
        "report": Lazy("producer.commands.report:report", "Show a run's results: table, JSON, CSV, HTML or FHIR."),
    },
    "Review": {
        "review": Lazy("producer.commands.review:review", "Review cases: list, next, show, confirm, override, ..."),
        "queue": Lazy("producer.commands.queue:queue", "Hand results to other systems: take, acknowledge, release."),
        "pseudonyms": Lazy("producer.commands.pseudonyms:pseudonyms", "List which patient has which pseudonym."),
    },
    "Correct": {
        "cancel": Lazy("producer.commands.control:cancel", "Cancel a run: workers get no more of its chunks."),
        "resume": Lazy("producer.commands.control:resume", "Continue a run that was cancelled or is held."),
        "retry": Lazy("producer.commands.control:retry", "Screen again what was rejected or quarantined."),
        "recompute": Lazy("producer.commands.recompute:recompute", "Compute results again, also by another case rule."),
        "compare-runs": Lazy("producer.commands.compare_runs:compare_runs", "Compare two runs of one archive."),
        "fsck": Lazy("producer.commands.fsck:command", "Check that nothing in a run was lost or counted twice."),
    },
    "Train": {
        "train": Lazy("trainer.commands.train:train", "Train a network and export its bundle."),
        "evaluate": Lazy("trainer.commands.evaluate:evaluate", "Score a bundle on other labelled captures."),
        "compare": Lazy("trainer.commands.compare:compare", "Train several recipes on one split and compare them."),
        "reference": Lazy(
            "trainer.commands.reference:reference", "Take a bundle's reference for quality and novelty again."
        ),
        "adapt": Lazy("trainer.commands.adapt:adapt", "Make a bundle for another microscope, without labels."),
        "data": Lazy("trainer.commands.data:data", "Fetch or audit labelled captures."),
        "synth": Lazy("trainer.synth.command:synth", "Write synthetic captures: drawings of smears."),
    },
    "Operate": {
        "worker": Lazy("worker.command:worker", "Start a worker on this machine."),
        "bundle": Lazy("worker.bundle_command:bundle", "Show, verify or compile a bundle."),
        "db": Lazy("producer.commands.database:database", "Create, upgrade, check, back up or restore the database."),
        "audit": Lazy("producer.commands.audit:audit", "Prove that reviews and events are as they were written."),
        "purge": Lazy("producer.commands.purge:purge", "Remove old runs and all that belongs to them."),
    },
}
"""Heading -> name -> where the command is. A string names each package that must not be imported here."""
KEPT = {
    "run": "what was screened is stored",
    "train": "the epochs that ended are kept",
    "compare": "finished bundles are kept, and the epochs of the others that ended",
    "synth": "what was drawn is kept",
}
"""Command -> what is left of its work after Ctrl-C: the same command goes on with it."""
NO_SUCH_THING = frozenset({"42P01", "42703"})
"""PostgreSQL's undefined_table and undefined_column."""
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


@click.group(
    cls=LazyGroup,
    sections=SECTIONS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("--debug", is_flag=True, help="Show where in the program an unexpected error happened.")
@click.version_option(version("slide-screen"), prog_name="slide-screen")
@click.pass_context
def screen(context: click.Context, debug: bool) -> None:
    """Screen archives of blood-smear captures for acute lymphoblastic leukaemia, for review by a haematologist.

    \b
    Exit codes: 0 all captures screened, 1 some ended badly, 2 a mistake that you can correct,
    3 Redis, database or archive out of reach, 70 this program failed.

    Settings are environment variables with the prefix SCREEN_, such as SCREEN_DATABASE_URL and SCREEN_REDIS_URL.
    """
    settings = get_settings()
    configure_logging(settings.log_level, settings.log_format)
    if database := here.default_database(settings):
        here.refuse_foreign(database, here.DATABASE)
    _say_unverified(settings, context.invoked_subcommand)


def _say_unverified(settings: Settings, command: str | None) -> None:
    """Warn of a database that is not verified. A worker says it in its log, however it is started."""
    if command == "worker" or settings.database_url.lower().startswith("sqlite"):
        return
    from db.url import unverified  # here: SQLAlchemy would cost every command a fifth of a second

    if sentence := unverified(settings):
        click.secho(f"screen: {sentence}", fg="yellow", err=True)


def main() -> None:
    """Entry point of `screen`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that is not UTF-8 gets \\xe9 for what it cannot show
            stream.reconfigure(errors="backslashreplace")
    sys.exit(_exit_code(sys.argv[1:]))


def _exit_code(arguments: list[str]) -> int:
    """Run a command. Only here does a failure become a line on stderr and an exit code."""
    debugging = False
    try:
        context = screen.make_context("screen", list(arguments))  # click takes words out of the list
        debugging = context.params["debug"]
        with context:
            code = screen.invoke(context)
        sys.stdout.flush()
        return int(code or ExitCode.OK)
    except ScreeningError as error:
        return _failed(str(error), error.exit_code)
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        return _shown(error)
    except (click.Abort, KeyboardInterrupt):
        return _failed(f"interrupted{_how_to_go_on(arguments)}", ExitCode.INTERRUPTED)
    except BrokenPipeError:  # `screen report 1 | head`: nobody reads the rest, so what is left in the buffer is dropped
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK
    except OSError as error:
        if debugging:
            click.echo(printable_lines(traceback_of(error)), err=True)
        return _failed(*_system_failure(error))
    except Exception as error:
        if debugging:
            click.echo(printable_lines(traceback_of(error)), err=True)
        if told := _refused_by_database(error):
            return _failed(*told)
        reason = " ".join(str(error).split())[:300]
        return _failed(
            f"this program failed ({type(error).__name__}: {reason}); nothing that was written before is lost. "
            "`screen --debug ...` shows where; please report it",
            ExitCode.BROKEN,
        )


def _refused_by_database(error: Exception) -> tuple[str, ExitCode] | None:
    """What an error of the database that nobody expected means to the user; None for any other error.

    Its text has the statement, and sometimes values: patients' names. So only its kind is said.
    """
    from sqlalchemy.exc import DBAPIError, SQLAlchemyError  # here: it would cost every command a fifth of a second

    if not isinstance(error, SQLAlchemyError):
        return None
    origin = error.orig if isinstance(error, DBAPIError) else None
    code = str(getattr(origin, "sqlstate", None) or getattr(origin, "sqlite_errorname", None) or "")
    kind = f"{type(origin or error).__name__}{f' {code}' if code else ''}"
    refused = f"the database refused a statement ({kind})"
    if code == "22003" or isinstance(origin, OverflowError):
        return (
            f"{refused}: a number is larger than any that it gives; check the numbers of this command",
            ExitCode.USAGE,
        )
    if code in NO_SUCH_THING or "no such table" in str(origin) or "no such column" in str(origin):
        return f"{refused}: it lacks a table or a column; `screen db check` says what to do", ExitCode.USAGE
    return (
        f"{refused}; nothing that was written before is lost. The database's log says more, `screen --debug ...` shows "
        "where; please report it",
        ExitCode.BROKEN,
    )


def _how_to_go_on(arguments: Sequence[str]) -> str:
    """What Ctrl-C left of the work of a command, and the command that goes on with it."""
    name = next((word for word in arguments if not word.startswith("-")), "")
    if name == "watch" or (name == "submit" and "--watch" in arguments):
        return "; a submitted run goes on without you, and `screen watch latest` follows it"
    if name not in KEPT:
        return ""
    again = [word for word in arguments if word != "--no-resume"]  # that would begin again
    return f"; {KEPT[name]}. To go on: {shlex.join(['screen', *again])}"


def _failed(sentence: str, code: ExitCode) -> ExitCode:
    # A sentence may hold names from outside, and end with lines of a worker's log.
    click.secho(f"screen: {printable_lines(sentence, indent='    ')}", fg="red", err=True)
    return code


def _shown(error: click.ClickException) -> int:
    """Print the error, which repeats the user's words: perhaps names that a shell's pattern took from an archive."""
    text = io.StringIO()
    error.show(text)
    click.echo(printable_lines(text.getvalue().expandtabs()), nl=False, err=True)
    return error.exit_code


def _system_failure(error: OSError) -> tuple[str, ExitCode]:
    """What an error of the operating system means to the user."""
    path = error.filename
    file = os.fsdecode(path) if isinstance(path, (str, bytes, os.PathLike)) else None
    if error.errno in NO_ROOM:
        where = file or f"a disk; the temporary folder is {gettempdir()}"
        return f"no room left on {where}; make room and run the command again", ExitCode.UNAVAILABLE
    if file is not None and error.errno in YOURS_TO_MEND:
        sentence = f"{file}: {error.strerror}; choose another place, or give this user the right to use it"
        return sentence, ExitCode.USAGE
    return f"the system failed ({error.strerror or error}{f': {file}' if file else ''})", ExitCode.BROKEN


if __name__ == "__main__":
    main()
