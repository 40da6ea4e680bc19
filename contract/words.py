"""The words that every page, report and listing uses for people."""

import re
from collections.abc import Iterable
from datetime import datetime

from contract.states import MarkCode, Verdict

FOR_REVIEW = "For review by a haematologist; it supports a specialist and decides nothing by itself."
VERDICT_WORDS = {
    Verdict.ALL: "ALL",
    Verdict.INDETERMINATE: "indeterminate",
    Verdict.INSUFFICIENT: "insufficient",
    Verdict.BENIGN: "Benign",
}
CUT_SHORT = "the file ends before its image does"
"""Why a capture is rejected as truncated."""
WHAT_TO_DO = {
    Verdict.ALL: "Look at this smear first, under the microscope. Then confirm the proposal, or override it.",
    Verdict.INDETERMINATE: (
        "The score lies between benign and ALL, or captures that do not count would change it: judge the smear under "
        "the microscope. New captures of more fields, submitted again, give a new result."
    ),
    Verdict.INSUFFICIENT: (
        "Too little counts for a result; this says nothing about the patient. Take new captures, sharp and of fields "
        "with cells, or make a new smear, and have the archive submitted again. Until then judge the smear under the "
        "microscope."
    ),
    Verdict.BENIGN: (
        "The score lies in the range of benign. Look at the captures with the highest score for ALL; then confirm the "
        "proposal, or override it if they, the smear or the patient's other findings say something else."
    ),
}
"""What a haematologist does with a case of this verdict."""
MARKS_EXPLAINED = {
    MarkCode.NOVEL: (
        "the capture looks unlike all that the network was trained on, for example because of another microscope, "
        "stain or magnification; its answer for such a capture means nothing"
    ),
    MarkCode.OUT_OF_FOCUS: (
        "the capture is less sharp than nearly all that the network was trained on; focus, and take it again"
    ),
    MarkCode.EMPTY_FIELD: "the field has almost no cells; take captures where the smear has some",
    MarkCode.NO_NUCLEATED_CELL: (
        "the field shows no leukocyte, or none that is told from the other cells in this stain; it proves nothing, "
        "neither benign nor ALL. Take captures of fields with leukocytes"
    ),
}
"""Marks for which captures usually do not count: what they mean, and what helps."""


def result_words(verdict: Verdict | None, subtype: str | None, *, signed: bool) -> str:
    """A case's result in the middle of a sentence; `verdict` is None while the case is open."""
    if verdict is None:
        return "still open"
    words = VERDICT_WORDS[verdict] + (f", {subtype}" if subtype else "")
    return f"{words}, signed off by the reviewers" if signed else words


def cells_words(cells: int | None, captures: int | None, *, at_least: bool | None) -> str:
    """How many nucleated cells a result rests on; `captures` count for it, and `at_least` says that there may be more.

    None for `cells` means that they were counted in none of these captures, None for `captures` that the result is of
    a release that counted no cells.
    """
    if captures is None or (cells is None and captures):
        return "nucleated cells not known"
    number = f"{cells or 0} nucleated cell{'' if cells == 1 else 's'}"
    return f"{'at least ' if at_least else ''}{number} in {captures} capture{'' if captures == 1 else 's'}"


def explained_marks(sentences: Iterable[str]) -> list[tuple[str, str]]:
    """The marks that these sentences name, as people read them, each with its explanation."""
    text = " ".join(sentences)
    words = {mark.replace("_", " "): explanation for mark, explanation in MARKS_EXPLAINED.items()}
    return [(word, explanation) for word, explanation in words.items() if re.search(rf"\b{word}\b", text)]


def local_time(when: datetime) -> str:
    """A point in time for people: by the clock of this machine, with its zone. Programs get UTC in ISO 8601."""
    return f"{when.astimezone():%Y-%m-%d %H:%M %Z}"


def local_clock(when: datetime) -> str:
    """The same without the date, for what is only minutes away."""
    return f"{when.astimezone():%H:%M %Z}"
