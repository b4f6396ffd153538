"""RUN/log.txt: timestamped lines, with notices and warnings echoed to the terminal."""

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Protocol

from halfmap.errors import InputError

STAMP = "%Y-%m-%d %H:%M:%S"
STAMP_LENGTH = 19
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")


class Terminal(Protocol):
    """Where notices and warnings are echoed: halfmap.runtime.progress.Progress, or anything like it."""

    def notice(self, text: str) -> None:
        """Show an ordinary message."""

    def warning(self, text: str) -> None:
        """Show a message that must be seen."""


class PlainTerminal:
    """Echo by print, for commands that draw no progress bar."""

    def __init__(self, write: Callable[[str], None] = print) -> None:
        self._write = write

    def notice(self, text: str) -> None:
        """Print the text."""
        self._write(text)

    def warning(self, text: str) -> None:
        """Print the text, marked."""
        self._write(f"WARNING: {text}")


class RunLog:
    """The log of a run. Lines are added to an existing file, so a resumed run keeps its history.

    line() writes to the file alone; notice() and warning() also reach the terminal. Every line is written at once, so
    that the log of a killed run is complete. Use as a context manager, or call close(). Raises InputError where the
    file system refuses.
    """

    def __init__(self, path: Path, terminal: Terminal | None = None) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.terminal: Terminal = terminal if terminal is not None else PlainTerminal()
        self.warnings: list[str] = []
        try:
            self._file = self.path.open("ab", buffering=0)
        except OSError as error:
            raise self._refused(error) from error

    def begin(self, version: str, command: str) -> None:
        """Head of a run: what was run, by which version. `halfmap report` reads it back (read_header)."""
        self.line(f"halfmap {version}")
        self.line(f"command: {command}")

    def line(self, text: str) -> None:
        """Write to the file alone; a text of several lines gets one stamp per line."""
        stamp = datetime.now().astimezone().strftime(STAMP)
        lines = [f"{stamp}  {part}\n" for part in _CONTROL.sub("", text).splitlines() or [""]]
        try:
            self._file.write("".join(lines).encode())
        except OSError as error:
            raise self._refused(error) from error

    def _refused(self, error: OSError) -> InputError:
        return InputError(f"{self.path}: cannot be written: {error.strerror or error}; check that the folder is "
                          "writable and has space")

    def notice(self, text: str) -> None:
        """Write and show."""
        self.line(text)
        self.terminal.notice(text)

    def warning(self, text: str) -> None:
        """Write and show so that it stands out; kept in `warnings` for the iteration record."""
        self.line(f"WARNING: {text}")
        self.warnings.append(text)
        self.terminal.warning(text)

    def take_warnings(self) -> list[str]:
        """Warnings since the last call, for the record of the iteration that ends."""
        taken, self.warnings = self.warnings, []
        return taken

    def finish(self) -> None:
        """Say in the log that the run came to its end."""
        self.line("finished")

    def close(self) -> None:
        """Close the file; further lines are an error."""
        self._file.close()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            with suppress(InputError):  # the log may be where the fault is
                self.line(f"stopped: {type(error).__name__}: {error}")
        self.close()


@dataclass(frozen=True)
class LogHeader:
    """Facts of a run found in its log; empty where not written."""

    started: str = ""
    version: str = ""
    command: str = ""
    finished: bool = False
    memory: str = ""


def read_header(path: Path) -> LogHeader:
    """Start and command of the first session; of the last, version, memory plan and whether it finished."""
    if not Path(path).is_file():
        return LogHeader()
    lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    started = lines[0][: STAMP_LENGTH - 3] if lines else ""
    version = command = memory = ""
    finished = False
    for text in (line[STAMP_LENGTH + 2 :] for line in lines):
        if text.startswith("halfmap "):
            version, finished = text.removeprefix("halfmap "), False
        elif text.startswith("command: "):
            command = command or text.removeprefix("command: ")
        elif text.startswith("memory: "):
            memory = text.removeprefix("memory: ")
        elif text == "finished":
            finished = True
    return LogHeader(started, version, command, finished, memory)
