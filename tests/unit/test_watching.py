"""Progress where there is no terminal: a line a minute that a person can read, and nothing that moves a cursor."""

import pytest

from db.progress import Progress
from producer.watching import LINE_S, _lines


def progress(ended: int, *, rejected: int = 0) -> Progress:
    return Progress(
        submitted=100, screened=ended - rejected, rejected=rejected, quarantined=0, cases=5, cases_finished=ended // 20,
        cases_with_captures=5, patients=5, patients_unchanged=0, patients_without_captures=0, chunks_leased=1,
        recent_per_s=2.0, cancelled=False, trouble=None,
    )  # fmt: skip


def test_a_line_at_the_beginning_and_then_each_minute(capsys: pytest.CaptureFixture[str]) -> None:
    clock = [0.0]
    with _lines(7, clock=lambda: clock[0]) as show:
        for second in range(int(3 * LINE_S)):
            clock[0] = float(second)
            show(progress(second // 3, rejected=second // 60))
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(" run 7: ")[2] for line in lines] == [
        "0 of 100 captures, 0/5 patients, 2/s, about 50 s left",
        "20 of 100 captures, 1/5 patients, 1 rejected, 0 quarantined, 2/s, about 40 s left",
        "40 of 100 captures, 2/5 patients, 2 rejected, 0 quarantined, 2/s, about 30 s left",
    ]
    assert all(line.isprintable() for line in lines)
