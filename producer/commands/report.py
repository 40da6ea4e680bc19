"""`screen report`: results of a run in every format of producer/formats/."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from contract.errors import ExitCode, UsageError
from contract.outputs import OutputFile
from contract.settings import get_settings
from db.progress import this_run
from db.run_report import RunReport, read_run
from db.schema import open_database
from producer.alarm import say_alarm, say_warnings
from producer.formats import ExportFormat, Truth, load_formats
from producer.output import RunNumber, echo, say, stdout, text_out
from producer.truth import TrueLabels, read_truth, truth_option

FORMATS = {file_format.parameter: file_format for file_format in load_formats().values()}
TABLE = "table"


def format_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add an option for each format: a flag, or the file to write. Without any of them the table is printed."""
    for file_format in reversed(FORMATS.values()):
        if file_format.to_file:
            kind: dict[str, Any] = {"type": OutputFile()}
        else:
            kind = {"is_flag": True, "hidden": file_format.name == TABLE}
        function = click.option(f"--{file_format.name}", file_format.parameter, help=file_format.help, **kind)(function)
    return function


@click.command()
@click.argument("run", type=RunNumber())
@format_options
@truth_option
def report(run: int, truth: Path | None, **chosen: Path | bool | None) -> ExitCode:
    """Show results of RUN, a number or `latest`, by patient, the most urgent first, and every capture that ended badly
    with its reason.

    Several formats in one call show the same moment. Exits 1 if captures were rejected or quarantined, patients have no
    captures, or most captures of most patients do not count; then the report begins with what to do.
    """
    true_labels = read_truth(truth) if truth else None
    files = {FORMATS[name]: value for name, value in chosen.items() if isinstance(value, Path)}
    printed = [FORMATS[name] for name, value in chosen.items() if value is True]
    if len(printed) > 1:
        options = " and ".join(f"--{file_format.name}" for file_format in printed)
        raise UsageError(f"{options} both print on stdout; choose one")
    shown = printed[0] if printed else None if files else FORMATS[TABLE]
    for file_format in (*files, *printed):
        file_format.check(truth)
    database = open_database(get_settings().database_url)
    evidence = next((file_format.evidence for file_format in files if file_format.evidence), None)
    read = read_run(database, this_run(database, run), evidence)
    labels = beside(true_labels, read)
    if shown is None or not shown.says_warnings:
        say_alarm(read.implausible)
        say_warnings(read.warnings, read.training_sentence)
    for file_format, file in files.items():
        file_format.write(read, file, labels)
        say(f"{file_format.name}: {file}")
    if shown is not None:
        show(read, shown, labels)
    return exit_code(read)


def beside(truth: TrueLabels | None, read: RunReport) -> Truth | None:
    """The true labels of the run's patients, if a table gives some. Raises UsageError if the bundle knows none."""
    return None if truth is None else truth.of((case.patient for case in read.cases), read.manifest.labels)


def show(read: RunReport, file_format: ExportFormat, truth: Truth | None) -> None:
    """Print the report on stdout in this format."""
    text = file_format.render(read, truth)
    if file_format.is_utf8:
        text_out(text)
    else:
        echo(text, color=stdout.is_terminal)


def exit_code(read: RunReport) -> ExitCode:
    """SOME_ENDED_BADLY if somebody must look at more than the results."""
    return ExitCode.OK if read.ended_well else ExitCode.SOME_ENDED_BADLY
