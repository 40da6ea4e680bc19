"""What a bundle says against itself, from its manifest alone."""

from typing import Any

import pytest

from contract.bundle import Bundle
from contract.bundle_warnings import bundle_warnings, training_sentence

PASSED = (
    "With every nucleated cell masked out the accuracy falls to 30.0%, which is not clearly better than always naming "
)
PASSED += "the most frequent label (25.0%): the evidence lies in the cells."
MASKED = "With every nucleated cell masked out the accuracy is still 90.0%: the network is looking elsewhere."
FALLS = "Accuracy falls by more than 10 points under 3 of 9 changes."


@pytest.mark.parametrize(
    ("provenance", "findings", "words"),
    [
        ({}, [], []),
        ({"split": {"kind": "grouped", "leaks": 0}, "patients_known": True}, [PASSED], []),
        ({"split": {"kind": "random", "leaks": 7}}, [], ["7 of 40 test captures have a near-duplicate"]),
        ({"split": {"kind": "grouped", "leaks": 2}}, [], ["2 of 40 test captures have a near-duplicate"]),
        ({"patients_known": False}, [], ["Patients were unknown"]),
        ({}, [FALLS, MASKED], ["Accuracy falls by more", "looking elsewhere"]),
        ({"case_thresholds": {"promise": "That is too few to promise the target."}}, [], ["too few to promise"]),
        ({"case_thresholds": {"promise": "The target of 99 % is met with confidence."}}, [], []),
        ({"split": "of another release", "case_thresholds": None}, [], []),
    ],
)
def test_the_warnings_of_the_model_card_follow_the_notice(
    bundle: Bundle, provenance: dict[str, Any], findings: list[str], words: list[str]
) -> None:
    test = {"captures": 40, "robustness": {"findings": findings}}
    manifest = bundle.manifest.model_copy(update={"provenance": provenance, "metrics": {"test": test}})
    first, *others = bundle_warnings(manifest)
    assert first == bundle.manifest.notice
    assert len(others) == len(words)
    for sentence, part in zip(others, words, strict=True):
        assert part in sentence


@pytest.mark.parametrize(("known", "says"), [(None, None), (0, None), (3, "3 of 12 screened captures were in")])
def test_captures_that_the_bundle_was_made_with_are_counted(known: int | None, says: str | None) -> None:
    sentence = training_sentence(known, 12)
    assert sentence is None if says is None else says in str(sentence)
