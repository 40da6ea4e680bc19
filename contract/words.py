"""The words that every page, report and listing uses for people."""

from contract.states import Verdict

FOR_REVIEW = "For review by a haematologist; it supports a specialist and decides nothing by itself."
VERDICT_WORDS = {
    Verdict.ALL: "ALL",
    Verdict.INDETERMINATE: "indeterminate",
    Verdict.INSUFFICIENT: "insufficient",
    Verdict.BENIGN: "Benign",
}
