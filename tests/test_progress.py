"""Progress in a log, which nobody watches but a CI system."""

import time
from io import StringIO
from types import SimpleNamespace

import pytest
from rich.console import Console

from runtime import progress
from runtime.bench import progress as bench_progress

PATIENCE = 30.0  # seconds; a line comes within hundredths of one


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the clock shows, to be changed."""
    shown = [0.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: shown[0]))
    return shown


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.01)


def wait_for(line: str, times: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Until a log that goes on has said it so often."""
    count, deadline = 0, time.monotonic() + PATIENCE
    while count < times:
        assert time.monotonic() < deadline, f"it never said {line!r}"
        time.sleep(0.01)
        count += capsys.readouterr().err.splitlines().count(line)


@pytest.mark.usefixtures("often")
def test_a_step_that_takes_long_does_not_fall_silent(seconds: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress.status() as told:
        told("opening")
        told("lowering [1]")
        wait_for("0:00:00 lowering [1]", 3, capsys)
    capsys.readouterr()
    time.sleep(0.05)
    assert not capsys.readouterr().err, "nothing once it has ended"


def test_control_a_line_that_never_comes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.PATIENCE", 0.0)
    with pytest.raises(AssertionError, match="it never said 'no such line'"):
        wait_for("no such line", 1, capsys)


def test_what_is_quick_leaves_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.status() as told, progress.progress("reading", 10) as advance:
        told("opening")
        advance(10)
    assert not capsys.readouterr().err


@pytest.mark.usefixtures("often", "seconds")
def test_steps_of_a_bench_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    with bench_progress.progress() as expect:
        told = expect(12)
        told("onnx loads")
        told("onnx decodes")
        wait_for("0:00:00 onnx decodes, 2 of 12", 1, capsys)


@pytest.mark.usefixtures("often")
def test_bytes_come_with_rate_and_remaining_time(seconds: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress.progress("reading", 24_000_000_000) as advance:
        for seconds[0] in range(10, 40, 10):
            advance(2_000_000_000)
        wait_for("0:00:30 reading: 6.0 GB of 24.0 GB, 200.0 MB/s, 0:01:30 left", 1, capsys)


@pytest.mark.usefixtures("often")
def test_other_units_are_counted_by_the_minute(seconds: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress.progress("sensitivity", 12, "steps") as advance:
        seconds[0] = 30
        advance(3)
        wait_for("0:00:30 sensitivity: 3 of 12 steps, 6.0/min, 0:01:30 left", 1, capsys)
    assert "bytes" not in capsys.readouterr().err


def test_bar_of_other_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a terminal."""
    screen = StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    monkeypatch.setattr(progress, "Console", lambda stderr: console)
    with progress.progress("sensitivity", 12, "steps") as advance:
        advance(3)
        advance(9)
    assert "12/12" in screen.getvalue() and "steps" in screen.getvalue() and "/min" in screen.getvalue()
    assert "bytes" not in screen.getvalue()
