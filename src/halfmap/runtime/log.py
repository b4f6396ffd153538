"""RUN/log.txt: lines with time stamps; notices and warnings are also shown on the terminal."""

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Protocol

from halfmap.errors import InputError
from halfmap.runtime.terminal import say

STAMP = "%Y-%m-%d %H:%M:%S"
STAMP_LENGTH = 19
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")


class Terminal(Protocol):
    """Where notices and warnings are shown: halfmap.runtime.progress.Progress, or anything like it."""

    def notice(self, text: str) -> None:
        """Show an ordinary message."""

    def warning(self, text: str) -> None:
        """Show a message that must be seen."""


class PlainTerminal:
    """Shows messages in plain lines, for commands that draw no progress bar."""

    def __init__(self, write: Callable[[str], None] = say) -> None:
        self._write = write

    def notice(self, text: str) -> None:
        """Print the text."""
        self._write(text)

    def warning(self, text: str) -> None:
        """Print the text with a mark before it."""
        self._write(f"WARNING: {text}")


class RunLog:
    """The log of a run. Lines are appended to an existing file, so that a resumed run keeps its history.

    line() writes to the file only; notice() and warning() also show the text on the terminal. Every line is written at
    once, so that the log of a killed run is complete. Use it as a context manager, or call close(). Raises InputError
    where the file system refuses.
    """

    def __init__(self, path: Path, terminal: Terminal | None = None) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.terminal: Terminal = terminal if terminal is not None else PlainTerminal()
        try:
            self._file = self.path.open("ab", buffering=0)
        except OSError as error:
            raise self._refused(error) from error

    def begin(self, version: str, command: str) -> None:
        """Write the head of a run: its version and its command, which `read_header` reads back for the report."""
        self.line(f"halfmap {version}")
        self.line(f"command: {command}")

    def line(self, text: str) -> None:
        """Write to the file only. Each line of a text of several lines gets a time stamp."""
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
        """Write the text and show it."""
        self.line(text)
        self.terminal.notice(text)

    def warning(self, text: str) -> None:
        """Write the text and show it so that it stands out."""
        self.line(f"WARNING: {text}")
        self.terminal.warning(text)

    def finish(self) -> None:
        """Write that the run came to its end."""
        self.line("finished")

    def close(self) -> None:
        """Close the file. Further lines raise an error."""
        self._file.close()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            with suppress(InputError):  # the error may be that the log cannot be written
                self.line(f"stopped: {type(error).__name__}: {error}")
        self.close()


@dataclass(frozen=True)
class LogHeader:
    """What the log says of a run; empty where it says nothing."""

    started: str = ""
    version: str = ""
    command: str = ""
    finished: bool = False
    memory: str = ""


def read_header(path: Path) -> LogHeader:
    """Read start and command of the first session, and of the last its version, memory plan and whether it finished."""
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
