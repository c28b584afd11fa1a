"""Progress in a log, which nobody watches but a CI system."""

import pytest

from runtime import progress


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the clock shows, to be changed."""
    shown = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: shown[0])
    return shown


def test_a_log_has_a_line_now_and_then(seconds: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress.status() as told:
        for seconds[0] in range(100):
            told(f"step [{seconds[0]}]")
    assert capsys.readouterr().err.splitlines() == ["0:00:30 step [30]", "0:01:00 step [60]", "0:01:30 step [90]"]


def test_what_is_quick_leaves_no_line(seconds: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress.status() as told, progress.progress("reading", 10) as advance:
        told("opening")
        advance(10)
    assert not capsys.readouterr().err


def test_bytes_come_with_rate_and_remaining_time(seconds: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress.progress("reading", 24_000_000_000) as advance:
        for seconds[0] in range(10, 40, 10):
            advance(2_000_000_000)
    assert capsys.readouterr().err == "0:00:30 reading: 6.0 GB of 24.0 GB, 200.0 MB/s, 0:01:30 left\n"
