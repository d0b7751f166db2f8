"""What a command says while it works: how much is done, how fast, and how long it will take."""

import pytest

from curate.console import progress_bars


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets."""
    now = [0.0]
    monkeypatch.setattr("curate.console.time.monotonic", lambda: now[0])
    return now


def test_a_log_has_a_line_for_each_quarter_with_the_rate_and_the_time_left(clock, capsys):
    with progress_bars() as progress:
        for done in range(1, 101):
            clock[0] = done / 4
            progress("images", done, 100)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "images: 25 of 100, 4/s, 19 s left",
        "images: 50 of 100, 4/s, 12 s left",
        "images: 75 of 100, 4/s, 6 s left",
        "images: 100 of 100",
    ]


def test_another_count_of_the_same_things_is_timed_anew(clock, capsys):
    with progress_bars() as progress:
        for start, pace in ((0, 1), (1000, 4)):
            for done in range(5, 101):
                clock[0] = start + done / pace
                progress("images", done, 100)
    assert "images: 50 of 100, 4/s, 12 s left" in capsys.readouterr().err.splitlines()
