"""What `screen submit` and `screen run` say about the walk through an archive, and what it means for the exit code."""

from collections import Counter
from collections.abc import Sequence
from itertools import groupby

import click
from sqlalchemy import Engine

from contract.archive import Archive
from contract.entries import counted, kind_of_file
from contract.errors import ExitCode
from contract.names import ascii_name, display_name, first_of
from contract.states import SkipReason
from db.history import runs_otherwise_named
from db.rereading import ReadAgain
from db.submit_plan import SubmitPlan, SubmitRequest
from producer.output import plain, say, stdout, table

_SHOWN = 10
"""How many skipped files of a kind, or patients, the terminal names; the database and `--json` have all of them."""


verify_option = click.option(
    "--verify", is_flag=True,
    help="Read every capture whose result would be kept, and screen those whose bytes have changed.",
)  # fmt: skip


def say_walked(walked: Archive, *, hide_names: bool = False) -> None:
    """Name on stderr what the walk skipped, by reason, the patients without captures, and those whose folders' names
    look the same; doubt the patients' depth. With `hide_names` it only counts them, because a nightly journal keeps all
    that is said.
    """
    for reason, names in sorted(walked.skipped.items()):
        kinds = ""
        if reason == SkipReason.NOT_A_CAPTURE:
            kinds = f" {counted(Counter(map(kind_of_file, names)))}:"
        shown = "" if hide_names else f" {first_of(names, _SHOWN)}"
        say(f"skipped ({reason}, {len(names)}):{kinds}{shown}".rstrip(":"), "yellow")
    if walked.without_captures:
        patients = [patient.named for patient in walked.without_captures]
        shown = "" if hide_names else f": {first_of(patients, _SHOWN)}"
        say(f"without captures ({_patients(len(patients))}){shown}", "bold yellow")
    if walked.look_alikes:
        groups = walked.look_alikes
        named = "" if hide_names else f": {first_of([_named(group) for group in groups], _SHOWN)}"
        say(
            f"folders with names that look the same (folders {sum(map(len, groups))}, groups {len(groups)}){named}. Is "
            "each group one patient? Then put the folders into one and submit again; until then each case says so, and "
            "comes first for review",
            "bold red",
        )
    doubt = walked.layout.doubt(walked.patient_depth)
    if doubt is not None:
        say(f"is each of these folders one patient? {doubt}", "bold yellow")


def say_names_kept(database: Engine, request: SubmitRequest) -> None:
    """Say where pseudonyms hide nothing: the database has the archive under names too, and digests join the two."""
    is_hidden = request.pseudonym_key is not None
    runs = runs_otherwise_named(database, request.root, pseudonymous=not is_hidden)
    if runs:
        kind, wanted = ("under names", "these runs") if is_hidden else ("with pseudonyms", "one kind or the other")
        say(
            f"the database has {len(runs)} runs of this archive {kind}, the last is run {runs[-1]}: who reads both "
            f"finds each patient's name by the digests of the captures. `screen purge` {wanted}, or keep pseudonyms in "
            "a database of their own",
            "bold red",
        )


def say_withdrawn(plan: SubmitPlan) -> None:
    """Name on stderr the patients who had captures in an earlier run and have none now."""
    withdrawn = [patient for patient in plan.absent if patient.withdraws]
    if withdrawn:
        names = first_of([f"{patient.patient} (case {patient.earlier_case})" for patient in withdrawn], _SHOWN)
        say(
            f"no captures any more ({_patients(len(withdrawn))}): {names}. Each gets a new result, insufficient, that "
            "withdraws the earlier one and names it. Is a disk missing? Then `screen cancel` the run and submit again",
            "bold yellow",
        )


def say_read_again(again: ReadAgain) -> None:
    """Say on stderr how many captures had to be read to know whether they are those of before, and why."""
    why = [
        f"{again.moved} have another inode or change time than at an earlier submit" if again.moved else "",
        f"{again.verified} were verified" if again.verified else "",
    ]
    if any(why):
        reasons = " and ".join(filter(None, why))
        outcome = f"{again.unchanged} hold the same bytes and keep their results"
        if again.changed:
            outcome += f", {len(again.changed)} do not, or cannot be read, and are screened"
        say(f"captures read again: {reasons}; {outcome}", "bold yellow" if again.changed else None)


def list_patients(request: SubmitRequest, plan: SubmitPlan) -> None:
    """Print every patient on stdout, by the name that is stored, with the number of its captures or why it has none."""
    shown = table(None, ("patient", "captures", "why none"), right=("captures",), fold=("patient", "why none"))
    for patient, captures in captures_by_patient(request):
        shown.add_row(plain(patient), str(captures), "")
    for absent in plan.absent:
        shown.add_row(plain(absent.patient), "0", plain(absent.reason))
    stdout.print(shown)


def captures_by_patient(request: SubmitRequest) -> list[tuple[str, int]]:
    """Each patient with captures, and their number."""
    return [
        (display_name(patient), sum(1 for _ in captures))
        for patient, captures in groupby(request.captures, key=lambda capture: capture.patient)
    ]


def exit_code(walked: Archive, plan: SubmitPlan) -> ExitCode:
    """SOME_ENDED_BADLY if patients have no captures, or captures may be left out of their patients' cases."""
    return ExitCode.SOME_ENDED_BADLY if plan.absent or walked.unscreened else ExitCode.OK


def _named(group: Sequence[bytes]) -> str:
    return " = ".join(ascii_name(display_name(name)) for name in group)


def _patients(count: int) -> str:
    return f"{count} patient{'s' if count != 1 else ''}"
