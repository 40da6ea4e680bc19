"""Cases for review in a terminal: the list, and one case with its evidence on one screen."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from contract.bundle_warnings import training_sentence
from contract.names import ascii_name
from contract.states import ReviewAction, ReviewState
from contract.words import FOR_REVIEW, WHAT_TO_DO, cells_words, explained_marks, local_clock, local_time
from db.opinions import CaseReview
from db.review_queries import CaseDetails, ListedCase, ReviewRow, TopCapture, UnscreenedCapture
from producer.alarm import print_warnings
from producer.output import plain, plain_lines, shown_verdict, stdout, table

_STATE = {
    ReviewState.WAITING: Text("waiting"),
    ReviewState.PARTLY_SIGNED: Text("partly signed", "cyan"),
    ReviewState.SECOND_OPINION: Text("second opinion", "cyan"),
    ReviewState.DISAGREEMENT: Text("disagreement", "bold magenta"),
    ReviewState.DEFERRED: Text("deferred", "dim"),
    ReviewState.CLOSED: Text("closed", "green"),
    ReviewState.SUPERSEDED: Text("superseded", "dim"),
}
_ACTION = {
    ReviewAction.CONFIRM: "confirmed",
    ReviewAction.OVERRIDE: "overrode, with",
    ReviewAction.DEFER: "deferred",
    ReviewAction.COMMENT: "commented",
    ReviewAction.SECOND_OPINION: "asked for a second opinion",
    ReviewAction.SETTLE_IDENTITY: "settled the conflict with other patients",
}
_BAD_SHOWN = 5


def result(verdict: str, subtype: str | None) -> Text:
    """A verdict with its subtype, coloured."""
    shown = shown_verdict(verdict)
    return shown.append_text(plain(f", {subtype}")) if subtype else shown


def agreement(case: CaseReview) -> str:
    """How many reviewers have the latest opinion, and how many must agree."""
    needed = case.wanted
    reviewers = f"{needed} reviewer{'s' if needed > 1 else ''}"
    if not case.opinions:
        return f"{reviewers} must sign"
    return f"{case.agreeing} of {reviewers} agree"


def print_list(rows: Sequence[ListedCase], total: int) -> None:
    """Print cases as a table on stdout, and how many more there are."""
    columns = ("case", "run", "patient", "proposal", "score", "review", "agree", "in hand")
    shown = table("For review, the most urgent first", columns, right=("case", "run", "score"), fold=("patient",))
    for row in rows:
        state = _STATE[row.state].copy()
        if row.final_verdict:
            state.append(": ").append_text(result(row.final_verdict, row.final_subtype))
        shown.add_row(
            str(row.case_id), str(row.run_id), plain(row.patient), result(row.verdict, row.subtype),
            "" if row.score is None else f"{row.score:.2f}", state, f"{row.agreeing} of {row.wanted}",
            plain(_in_hand(row)),
        )  # fmt: skip
    stdout.print(shown)
    more = f"; {total - len(rows)} more: --limit {total} shows all" if total > len(rows) else ""
    stdout.print(f"{total} cases{more}", style="dim", highlight=False)


def _in_hand(row: ListedCase) -> str:
    return f"{row.holder} to {local_clock(row.held_until)}" if row.holder and row.held_until else ""


def print_case(case: CaseDetails) -> None:
    """Print one case on stdout: the proposal and its reasons, the captures with the highest P(ALL), and the history."""
    stdout.print(Text(f"Case {case.case_id} of run {case.run_id}, for review", "bold"))
    if case.superseded_by is not None:
        newer = f"A newer case of this patient took its place: `screen review show {case.superseded_by}`"
        stdout.print(newer, style="bold yellow", highlight=False)
    stdout.print(_head(case))
    if case.conflicts:
        stdout.print(_conflicts(case))
    if case.look_alikes:
        stdout.print(_look_alikes(case))
    stdout.print()
    stdout.print("Captures with the highest P(ALL)", style="italic")
    stdout.print(_captures(case))
    for mark, explanation in explained_marks(reason.sentence for reason in case.reasons):
        stdout.print(Text.assemble((mark, "yellow"), f": {explanation}"))
    if case.ended_badly:
        stdout.print(_ended_badly(case.ended_badly))
    if case.history:
        stdout.print(_history(case.history))
    training = training_sentence(case.in_training, case.screened)
    if case.warnings or training:
        stdout.print("What speaks against this bundle's results", style="italic")
        print_warnings(case.warnings, training)
    stdout.print(FOR_REVIEW)


def _head(case: CaseDetails) -> Table:
    head = Table.grid(padding=(0, 2, 0, 0))
    head.add_column(style="dim", no_wrap=True)
    head.add_column(overflow="fold")
    head.add_row("patient", plain(case.patient))
    head.add_row("archive", plain(case.archive))
    head.add_row("proposal", result(case.verdict, case.subtype))
    if case.score is not None:
        head.add_row("score", f"{case.score:.2f}, 95 % {case.score_low:.2f}-{case.score_high:.2f}")
    head.add_row("captures", _counts(case))
    for moved in case.moved_to:
        captures = f"{moved.captures} of the earlier ones lie"
        head.add_row("", plain(f"{captures} under {moved.patient} now, case {moved.case_id}: was the folder renamed?"))
    for number, reason in enumerate(case.reasons):
        head.add_row("" if number else "why", plain(reason.sentence))
    review = _STATE[case.state].copy()
    if case.final_verdict:
        review.append(" as ").append_text(result(case.final_verdict, case.final_subtype))
    review.append(f" by case {case.superseded_by}" if case.superseded_by is not None else f"; {agreement(case)}")
    head.add_row("review", review)
    if in_hand := _in_hand(case):
        head.add_row("in hand", plain(in_hand))
    if not case.final_verdict:
        first = ""
        if case.look_alikes:
            first = (
                "First find out whether both folders are of one patient: then put them into one and submit again; if "
                f"they are of two, `screen review settle-identity {case.case_id}`. "
            )
        elif case.identity_conflict:
            first = (
                "First find out which patient the doubled capture belongs to: remove the other copy and submit again, "
                f"or, if it belongs here or both are right, `screen review settle-identity {case.case_id}`. "
            )
        head.add_row("what to do", first + WHAT_TO_DO[case.verdict])
    return head


def _counts(case: CaseDetails) -> str:
    counts = {
        "rejected": case.rejected, "quarantined": case.quarantined, "excluded": case.excluded, "novel": case.novel,
    }  # fmt: skip
    others = [f"{count} {name}" for name, count in counts.items() if count]
    cells = cells_words(case.nucleated_cells, case.counting, at_least=case.cells_at_least)
    return ", ".join([f"{case.screened} of {case.submitted} screened", *others, cells])


def _captures(case: CaseDetails) -> Table:
    captures = case.top_captures
    marked = any(capture.marks or capture.excluded for capture in captures)
    columns = ["capture", "label", "P(ALL)", *(["novelty", "marks"] if marked else [])]
    shown = table(None, columns, right=("P(ALL)", "novelty"), fold=("capture", "marks"))
    for capture in captures:
        cells: list[Text | str] = [plain(capture.path_text), plain(capture.label), f"{capture.p_all:.3f}"]
        if marked:
            novelty = "" if capture.novelty is None else f"{capture.novelty:.1f}"
            cells += [novelty, plain(_marks(capture))]
        shown.add_row(*cells)
    return shown


def _marks(capture: TopCapture) -> str:
    """The codes of a capture's marks, and whether they exclude it from the result."""
    codes = [str(mark.code) for mark in capture.marks or ()]
    return ", ".join(codes + (["does not count"] if capture.excluded else []))


def _ended_badly(captures: Sequence[UnscreenedCapture]) -> Table:
    shown = table(f"Could not be screened: {len(captures)}", ("capture", "why"), fold=("capture", "why"))
    for capture in captures[:_BAD_SHOWN]:
        shown.add_row(plain(capture.path_text), plain(capture.reason or capture.reject_code))
    if len(captures) > _BAD_SHOWN:
        shown.add_row(f"and {len(captures) - _BAD_SHOWN} more", "`screen report` names all")
    return shown


def _conflicts(case: CaseDetails) -> Table:
    shown = table(
        "The same capture under another patient: they may have been mixed up",
        ("capture", "is also", "of patient"), fold=("capture", "is also", "of patient"),
    )  # fmt: skip
    shown.title_style = "bold red"
    for conflict in case.conflicts:
        shown.add_row(*(plain(value) for value in (conflict.path, conflict.other_path, conflict.other_named)))
    return shown


def _look_alikes(case: CaseDetails) -> Table:
    shown = table(
        "Folders with names that look the same: one patient in two halves, or two people in one",
        ("this folder", "looks like", "case"), fold=("this folder", "looks like"), right=("case",),
    )  # fmt: skip
    shown.title_style = "bold red"
    for other in case.look_alikes:
        shown.add_row(plain(ascii_name(case.patient)), plain(ascii_name(other.other_patient)), str(other.other_case_id))
    return shown


def _history(history: Sequence[ReviewRow]) -> Table:
    shown = table("What was done", ("when", "who", "what", "comment"), fold=("who", "comment"))
    for event in history:
        action = Text(_ACTION[event.action])
        if event.verdict:
            action.append(" ").append_text(result(event.verdict, event.subtype))
        who = event.reviewer if event.os_user in (None, event.reviewer) else f"{event.reviewer} (user {event.os_user})"
        shown.add_row(local_time(event.created_at), plain(who), action, plain_lines(event.comment))
    return shown
