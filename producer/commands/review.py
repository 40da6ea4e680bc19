"""`screen review`: the commands with which a haematologist reviews cases."""

import io
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import click
from sqlalchemy import Engine

from contract.errors import ExitCode, UsageError
from contract.files import write_whole
from contract.names import first_of
from contract.outputs import OutputFile
from contract.settings import get_settings
from contract.states import ReviewAction, ReviewState, Verdict
from db import review as actions
from db.opinions import CaseReview
from db.plausibility import implausibility
from db.review import Opinion, Reviewer
from db.review_queries import case_details, review_list
from db.reviewed_labels import labelled_cases, reviewed_captures
from db.schema import open_database
from db.settling import settle_identity
from producer.alarm import say_alarm
from producer.case_page import CasePage, page_options
from producer.labels_out import write_labels
from producer.output import CSV, ID, csv_out, json_out, login_name, output_options, reviewer_name, say
from producer.review_output import agreement, print_case, print_list, result

SHOWN = 20
"""Rows of the table without --limit."""
TOP_CAPTURES = 8
COLUMNS = (
    "case_id", "run_id", "patient", "verdict", "subtype", "score", "score_low", "score_high", "priority", "state",
    "opinions", "agreeing", "wanted", "final_verdict", "final_subtype", "closed_at", "last_action", "last_reviewer",
    "last_action_at", "holder", "held_until", "superseded_by", "submitted", "screened", "reasons", "identity_conflict",
    "archive", "site",
)  # fmt: skip

case_argument = click.argument("case", type=ID)
comment_option = click.option("--comment", help="Say why, in a sentence; it is kept for good.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON on stdout.")
captures_option = click.option(
    "--captures", type=click.IntRange(0), default=TOP_CAPTURES, show_default=True, help="Name this many captures."
)
reviewer_option = click.option(
    "--reviewer", envvar="SCREEN_REVIEWER", show_envvar=True, default=reviewer_name, show_default="the login name",
    callback=lambda _context, _option, name: Reviewer(name.strip(), version("slide-screen"), login_name()),
    help="Act under this name, which is stored with everything that you do; SCREEN_REVIEWER can set it.",
)  # fmt: skip


@click.group()
def review() -> None:
    """Review cases: see what waits and why, confirm or override each result, export reviewed labels.

    No action is changed or deleted afterwards: reviewers who change their mind act again, and their latest opinion
    counts. Results are proposals for review.
    """


def _database() -> Engine:
    return open_database(get_settings().database_url)


def _say_alarms(database: Engine, runs: Iterable[int]) -> None:
    """Say on stderr, before a reviewer looks at the cases, which of these runs cannot be believed."""
    for run in sorted(set(runs)):
        say_alarm(implausibility(database, run))


@review.command("list")
@click.option("--run", type=ID, help="Show only the cases of this run.")
@click.option(
    "--state",
    type=click.Choice([state.value for state in ReviewState]),
    help="Show the cases in this state instead of all that are neither closed nor superseded.",
)
@click.option("--mine", is_flag=True, help="Show the cases that you have in hand or have acted on, also closed ones.")
@click.option(
    "--limit", type=click.IntRange(1), help=f"Show at most this many cases; without this a table shows {SHOWN}."
)
@reviewer_option
@output_options
def list_(
    run: int | None, state: str | None, mine: bool, limit: int | None, reviewer: Reviewer, output: str
) -> ExitCode:
    """List what waits for review, the most urgent first, deferred cases last.

    Cases that a newer case of the patient superseded are left out; `--state superseded` lists them."""
    database = _database()
    rows, total = review_list(
        database, run_id=run, state=ReviewState(state) if state else None, mine=reviewer if mine else None,
        limit=limit or (SHOWN if output == "table" else None),
    )  # fmt: skip
    _say_alarms(database, (row.run_id for row in rows))
    if output == "json":
        json_out([asdict(row) for row in rows])
    elif output in CSV:
        csv_out([asdict(row) for row in rows], COLUMNS, output)
    elif rows:
        print_list(rows, total)
    else:
        say("nothing to list")
    return ExitCode.OK


@review.command("next")
@click.option("--run", type=ID, help="Show only the cases of this run.")
@click.option(
    "--hold", type=click.IntRange(1, 1440), metavar="MINUTES",
    help="Keep the case from others for this many minutes instead of SCREEN_REVIEW_HOLD_MINUTES.",
)  # fmt: skip
@captures_option
@json_option
@page_options
@reviewer_option
def next_(
    run: int | None, hold: int | None, captures: int, as_json: bool, page: CasePage, reviewer: Reviewer
) -> ExitCode:
    """Take the most urgent case that no other reviewer has in hand, and show it.

    You keep it until you act on it, release it, or the time is over; until then `next` shows it again.
    """
    database = _database()
    minutes = hold or get_settings().review_hold_minutes
    case_id = actions.next_case(database, reviewer, hold_s=60 * minutes, run_id=run)
    if case_id is None:
        if as_json:
            json_out(None)
        say("nothing is left for you to review; `screen review list` shows what others have in hand")
        return ExitCode.OK
    case = case_details(database, case_id, captures=captures)
    _say_alarms(database, (case.run_id,))
    if as_json:
        json_out(asdict(case))
    else:
        print_case(case)
    page.write(database, case)
    say(
        f"case {case_id} is in {reviewer.name}'s hand for {minutes} minutes: "
        f"screen review confirm {case_id}, or override, defer, second-opinion, comment, release"
    )
    return ExitCode.OK


@review.command()
@case_argument
@captures_option
@json_option
@page_options
def show(case: int, captures: int, as_json: bool, page: CasePage) -> ExitCode:
    """Show CASE: the proposal and why, the captures that support it most, and what reviewers did."""
    database = _database()
    details = case_details(database, case, captures=captures)
    _say_alarms(database, (details.run_id,))
    if as_json:
        json_out(asdict(details))
    else:
        print_case(details)
    page.write(database, details)
    return ExitCode.OK


@review.command()
@case_argument
@comment_option
@json_option
@reviewer_option
def confirm(case: int, comment: str | None, as_json: bool, reviewer: Reviewer) -> ExitCode:
    """Confirm the proposed result of CASE."""
    return _act(case, ReviewAction.CONFIRM, reviewer, as_json, comment=comment)


@review.command()
@case_argument
@click.option(
    "--verdict",
    type=click.Choice([verdict.value for verdict in Verdict], case_sensitive=False),
    required=True,
    help="Give the right verdict.",
)
@click.option("--subtype", help="Name one of the bundle's subtypes, for ALL where it is known.")
@click.option("--comment", required=True, help="Say why, in a sentence; it is kept for good.")
@json_option
@reviewer_option
def override(
    case: int, verdict: Verdict, subtype: str | None, comment: str, as_json: bool, reviewer: Reviewer
) -> ExitCode:
    """Replace the proposed result of CASE with another one, and say why."""
    return _act(
        case, ReviewAction.OVERRIDE, reviewer, as_json, opinion=Opinion(Verdict(verdict), subtype), comment=comment
    )


@review.command()
@case_argument
@comment_option
@json_option
@reviewer_option
def defer(case: int, comment: str | None, as_json: bool, reviewer: Reviewer) -> ExitCode:
    """Put CASE off: it stays in the queue, behind all others, until a reviewer acts on it."""
    return _act(case, ReviewAction.DEFER, reviewer, as_json, comment=comment)


@review.command()
@case_argument
@click.argument("text")
@json_option
@reviewer_option
def comment(case: int, text: str, as_json: bool, reviewer: Reviewer) -> ExitCode:
    """Add TEXT to CASE, also while another reviewer has it in hand."""
    return _act(case, ReviewAction.COMMENT, reviewer, as_json, comment=text)


@review.command("second-opinion")
@case_argument
@comment_option
@json_option
@reviewer_option
def second_opinion(case: int, comment: str | None, as_json: bool, reviewer: Reviewer) -> ExitCode:
    """Ask for another reviewer's opinion on CASE: at least two must agree from now on, closed or not."""
    return _act(case, ReviewAction.SECOND_OPINION, reviewer, as_json, comment=comment)


@review.command("settle-identity")
@case_argument
@click.option("--comment", required=True, help="Say what you found out, in a sentence; it is kept for good.")
@json_option
@reviewer_option
def settle_identity_(case: int, comment: str, as_json: bool, reviewer: Reviewer) -> ExitCode:
    """Say that the captures of CASE that lie under other patients too are no mix-up for this patient.

    From then on they count as any others, for this patient and in later runs too. The other patients' cases stay in
    conflict until somebody settles those as well. CASE gets its result again, and still needs its sign-off.
    """
    settled = settle_identity(_database(), case, reviewer, comment=comment)
    if as_json:
        json_out(asdict(settled))
    others = first_of([f"{name} ({count})" for name, count in sorted(settled.against.items())], SHOWN)
    say(
        f"case {case}, for review: {reviewer.name} settled the captures that also lie under {others}; "
        + _standing(settled.review)
    )
    return ExitCode.OK


@review.command()
@case_argument
@reviewer_option
def release(case: int, reviewer: Reviewer) -> ExitCode:
    """Give CASE back without acting on it, so that others can take it."""
    was_held = actions.release(_database(), case, reviewer)
    say(f"case {case} is free again" if was_held else f"nobody had case {case} in hand")
    return ExitCode.OK


def _act(
    case: int,
    action: ReviewAction,
    reviewer: Reviewer,
    as_json: bool,
    *,
    opinion: Opinion | None = None,
    comment: str | None = None,
) -> ExitCode:
    after = actions.act(_database(), case, action, reviewer, opinion=opinion, comment=comment)
    if as_json:
        json_out(asdict(after))
    proposal = result(after.verdict, after.subtype)
    done = f"case {case}, proposed as {proposal}, for review: {reviewer.name} "
    say(done + _DONE[action] + "; " + _standing(after))
    return ExitCode.OK


_DONE = {
    ReviewAction.CONFIRM: "confirmed it",
    ReviewAction.OVERRIDE: "overrode it",
    ReviewAction.DEFER: "deferred it",
    ReviewAction.COMMENT: "commented",
    ReviewAction.SECOND_OPINION: "asks for a second opinion",
}


def _standing(after: CaseReview) -> str:
    if after.final_verdict is not None:
        return f"closed as {result(after.final_verdict, after.final_subtype)}"
    return f"{after.state.replace('_', ' ')}, {agreement(after)}"


@review.command()
@click.argument("run", type=ID, required=False)
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="Use all runs; for a patient with several cases, use the one that was closed last.",
)
@click.option(
    "--out",
    type=OutputFile(),
    required=True,
    help="Write the labels to this file, labels.csv for example.",
)
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
@click.option(
    "--csv-excel", "for_excel", is_flag=True,
    help="Write the file for a spreadsheet, in which no cell is run as a formula, instead of for `screen train`.",
)  # fmt: skip
def export(run: int | None, everything: bool, out: Path, force: bool, for_excel: bool) -> ExitCode:
    """Write reviewed labels of RUN as a labels.csv that `screen train` takes.

    Only closed cases: the subtype for ALL, the bundle's benign label for benign. Each capture gets its patient's label,
    also if the capture itself does not show it. If several archives come together, a patient is named by the
    folder's path, because the same name in two archives is two patients; the column `site` has SCREEN_SITE.
    """
    if (run is None) != everything:
        raise UsageError("which labels? name a RUN, or --all")
    if out.exists() and not force:
        raise UsageError(f"{out} exists; --force replaces it")
    database = _database()
    cases, left_out = labelled_cases(database, run)
    for reason, count in sorted(left_out.items()):
        say(f"left out: {count} cases ({reason})", "yellow")
    if not cases:
        raise UsageError("no case is closed as benign or as ALL with a subtype: there is nothing to export")
    text = io.StringIO(newline="")
    with_site = any(case.site for case in cases)
    written, unused = write_labels(
        text, reviewed_captures(database, cases), out.parent.resolve(), with_site, for_excel=for_excel
    )
    write_whole(out, text.getvalue())
    for reason, count in sorted(unused.items()):
        say(f"left out: {count} captures ({reason})", "yellow")
    labels = Counter(case.label for case in cases)
    counts = ", ".join(f"{label} {count}" for label, count in sorted(labels.items()))
    say(f"{out}: {written} captures of {len(cases)} reviewed patients ({counts}), each with its patient's label")
    if out.name != "labels.csv" and not for_excel:
        say("`screen train FOLDER` looks for FOLDER/labels.csv: rename the file")
    return ExitCode.OK
