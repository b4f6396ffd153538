"""Terminal progress and the log of a run."""

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from halfmap.runtime.log import RunLog, read_header
from halfmap.runtime.progress import Progress, counted


def record(iteration: int) -> dict[str, Any]:
    return {
        "iteration": iteration, "search": "global", "band_A": 21.37 - iteration,
        "resolution_A": 17.83 - iteration, "resolution_05_A": 19.61 - iteration,
        "angle_change_deg": 5.43 / iteration, "max_posterior": 0.731 + 0.01 * iteration,
        "seconds": {"search": 30.5, "total": 41.0 + iteration},
    }  # fmt: skip


class Screen(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def drive(stream: io.StringIO) -> str:
    with Progress(stream) as progress:
        for number in (1, 2):
            progress.start_iteration(number, "global", 1000, None if number == 1 else 16.83, band=20.0)
            for _ in range(4):
                progress.advance(250)
            progress.finish_iteration(record(number))
        progress.notice("masks [a] 1/2")
        progress.warning("few views")
    return stream.getvalue()


def test_a_log_gets_one_plain_line_per_iteration() -> None:
    lines = drive(io.StringIO()).splitlines()
    assert lines[0].split() == "iter search band A 0.143 A 0.5 A angle deg Pmax seconds".split()
    assert lines[1].split() == "1 global 20.37 16.83 18.61 5.43 0.741 42.0".split()
    assert lines[2].split() == "2 global 19.37 15.83 17.61 2.71 0.751 43.0".split()
    assert lines[3:] == ["masks [a] 1/2", "WARNING: few views"]
    assert all(character.isprintable() for line in lines for character in line)


def test_a_terminal_gets_a_bar_and_the_same_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "110")
    shown = drive(Screen())
    assert "\x1b[" in shown
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    for text in ("iteration 2", "global to 20.0 Å", "16.83 Å", "/1000", "masks [a] 1/2", "few views"):
        assert text in plain
    assert re.search(r"2 +global +19\.37 +15\.83 +17\.61 +2\.71 +0\.751 +43\.0", plain)


def test_a_dumb_terminal_gets_no_control_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert "\x1b" not in drive(Screen())


def test_things_are_counted_by_a_bar_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    screen, file = Screen(), io.StringIO()
    for stream in (screen, file):
        with counted("subtracting", 30, stream) as advance:
            advance(20)
            advance(10)
    assert "subtracting" in screen.getvalue() and "30/30" in screen.getvalue()
    assert file.getvalue() == ""


def test_a_record_without_figures_still_prints() -> None:
    stream = io.StringIO()
    with Progress(stream) as progress:
        progress.start_iteration(1, "global", 10, None)
        progress.finish_iteration({"iteration": 1})
    assert stream.getvalue().splitlines()[1].split() == ["1", *"-------"]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[tuple[RunLog, io.StringIO]]:
    stream = io.StringIO()
    with RunLog(tmp_path / "log.txt", Progress(stream)) as opened:
        yield opened, stream


def test_the_log_stamps_every_line_and_echoes_what_a_user_must_see(log: tuple[RunLog, io.StringIO]) -> None:
    opened, stream = log
    opened.line("read 3 stacks\nin 2 s")
    opened.notice("memory \x1b[31m2 GB\x1b[0m")
    opened.warning("beam tilt ignored")
    lines = opened.path.read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  ", line) for line in lines)
    texts = [line[21:] for line in lines]
    assert texts == ["read 3 stacks", "in 2 s", "memory 2 GB", "WARNING: beam tilt ignored"]
    assert "read 3" not in stream.getvalue()
    assert "WARNING: beam tilt ignored" in stream.getvalue()


def test_a_resumed_log_keeps_the_history_and_the_first_command(tmp_path: Path) -> None:
    for version, command in (("1.0", "halfmap refine x.star"), ("1.1", "halfmap resume run")):
        with RunLog(tmp_path / "log.txt") as log:
            log.begin(version, command)
    header = read_header(tmp_path / "log.txt")
    assert (header.version, header.command, header.finished) == ("1.1", "halfmap refine x.star", False)
    with RunLog(tmp_path / "log.txt") as log:
        log.finish()
    assert read_header(tmp_path / "log.txt").finished


def test_the_log_says_why_a_run_stopped(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no memory"), RunLog(tmp_path / "log.txt"):
        raise ValueError("no memory")
    assert "stopped: ValueError: no memory" in (tmp_path / "log.txt").read_text()
