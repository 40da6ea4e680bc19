"""When a case was closed, from what reviewers did: also closings that were undone since."""

from datetime import UTC, datetime, timedelta

import pytest

from db.sign_offs import Act, sign_offs

START = datetime(2026, 3, 1, 8, tzinfo=UTC)


def acts(*done: str) -> list[Act]:
    """`anna confirm benign`, `ben override all Pro`, `anna second_opinion`: one a minute, by a clock that goes back.

    `changed`: from then on the result has its next version.
    """
    rows: list[Act] = []
    version = 1
    for words in done:
        if words == "changed":
            version += 1
            continue
        reviewer, action, verdict, subtype, *_ = (*words.split(), None, None)
        at = START - timedelta(minutes=len(rows))
        rows.append(Act(str(action), str(reviewer), verdict, subtype, at, version, str(reviewer)))
    return rows


@pytest.mark.parametrize(
    ("done", "required", "closed"),
    [
        ((), 1, []),
        (("anna comment", "anna defer"), 1, []),
        (("anna confirm benign",), 1, [("benign", 0)]),
        (("anna confirm benign",), 2, []),
        (("anna confirm benign", "ben confirm benign"), 2, [("benign", 1)]),
        (("anna confirm all Pro", "ben override all Pre", "carl override all Pre"), 2, [("all", 2)]),
        (("anna confirm benign", "anna override all Pro"), 1, [("benign", 0), ("all", 1)]),
        (("anna confirm benign", "anna comment", "anna confirm benign"), 1, [("benign", 0)]),
        (("anna confirm benign", "ben second_opinion"), 1, [("benign", 0)]),
        (("anna confirm benign", "ben second_opinion", "ben confirm benign"), 1, [("benign", 0), ("benign", 2)]),
        (("anna confirm benign", "ben second_opinion", "ben override all Pro", "anna override all Pro"), 1,
         [("benign", 0), ("all", 3)]),
    ],
)  # fmt: skip
def test_each_closing_with_its_result(done: tuple[str, ...], required: int, closed: list[tuple[str, int]]) -> None:
    minutes = [(str(one.verdict), (START - one.at).seconds // 60) for one in sign_offs(acts(*done), required)]
    assert minutes == closed


def test_a_confirm_of_an_earlier_version_of_the_result_closes_nothing_later() -> None:
    assert len(sign_offs(acts("anna confirm benign", "ben confirm benign"), 2)) == 1
    assert sign_offs(acts("anna confirm benign", "changed", "ben confirm benign"), 2) == ()
    assert len(sign_offs(acts("anna override benign", "changed", "ben confirm benign"), 2)) == 1
    (signed,) = sign_offs(acts("anna confirm benign", "changed", "anna comment"), 1)
    assert signed.result_version == 1
