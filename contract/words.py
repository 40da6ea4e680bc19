"""The words that every page, report and listing uses for people."""

from contract.states import Verdict

FOR_REVIEW = "For review by a haematologist; it supports a specialist and decides nothing by itself."
VERDICT_WORDS = {
    Verdict.ALL: "ALL",
    Verdict.INDETERMINATE: "indeterminate",
    Verdict.INSUFFICIENT: "insufficient",
    Verdict.BENIGN: "Benign",
}
CUT_SHORT = "the file ends before its image does"
"""Why a capture is rejected as truncated."""


def result_words(verdict: Verdict | None, subtype: str | None, *, signed: bool) -> str:
    """A case's result in the middle of a sentence; `verdict` is None while the case is open."""
    if verdict is None:
        return "still open"
    words = VERDICT_WORDS[verdict] + (f", {subtype}" if subtype else "")
    return f"{words}, signed off by the reviewers" if signed else words
