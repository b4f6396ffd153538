"""What a run says of itself, whether it is still at work, and how far it is: from its files alone, whatever they hold.

A command at work holds its lock file, in which a thread says every few seconds that it lives (`runtime/heartbeat.py`).
Where it ran on this machine its process tells as well. What ended says how in its log: `finished`, or `stopped` and by
what; a command that was killed says nothing. Locks themselves are not tried: that would hold up who wants them.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from halfmap.runtime.contained import opened_below, version_of
from halfmap.runtime.heartbeat import Told, told
from halfmap.runtime.log import STAMP_LENGTH
from halfmap.workflows.watched_folders import GROUPS, PAGES, REPORT, WatchedFolder

SILENT = 180.0  # seconds without a heartbeat; file systems of a cluster show it a minute or two late
LONGEST = 1 << 22  # bytes that are read of a file at most: its last ones
RESUMED = {"refine", "classify"}  # go on with `halfmap resume`; the others when they are given again
SETTINGS_OF = re.compile(r"# Settings of halfmap (\S+?),")
MAPS = ("map.mrc", "class001.mrc", "classes.mrcs", "map_sharpened.mrc")  # the first of them is the run's picture

Read = TypeVar("Read")
Record = Mapping[str, Any]


class State(Enum):
    """Whether a run is at work, or how it ended."""

    RUNNING = "running"
    FINISHED = "finished"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True)
class Picture:
    """The file that a run is shown by: a map, or a stack of class means. tag: of its version."""

    path: Path
    tag: str


@dataclass(frozen=True)
class RunStatus:
    """How a run stands.

    command: that made it; stage: what it does, or did last; resolution: in A; done: of the work under way, from 0 to 1;
    seconds_left: of this work; said: in a sentence, what became of it or what to do; changed: seconds since 1970.
    """

    folder: WatchedFolder
    command: str
    state: State
    stage: str = ""
    resolution: float | None = None
    done: float | None = None
    seconds_left: float | None = None
    said: str = ""
    changed: float = 0.0
    picture: Picture | None = None


@dataclass(frozen=True)
class _Log:
    """The end of a log. word: the last of `finished`, `stopped` and `begun`, empty of a file that is no log of ours."""

    word: str = ""
    why: str = ""
    command: str = ""


@dataclass(frozen=True)
class _Known:
    tag: str
    value: Any


@dataclass(frozen=True)
class _Seen:
    """A version of a lock file, and when it was first seen, seconds since 1970; before: whether another one was."""

    tag: str
    first: float
    before: bool


@dataclass
class RunReader:
    """Reads runs again and again: files that have not changed are read once."""

    _known: dict[Path, _Known] = field(default_factory=dict)
    _beats: dict[Path, _Seen] = field(default_factory=dict)

    def status(self, run: WatchedFolder, now: float) -> RunStatus:
        """How a run stands now, seconds since 1970."""
        log = self._log(run) if "log.txt" in run.files else _Log()
        records = self._read(run, "iterations.jsonl", _last_record) or {}
        command = self._command(run, log)
        lock = self._read(run, "checkpoint/lock", told)
        alive = lock is not None and log.word != "finished" and self._alive(run, lock, now)
        state = State.RUNNING if alive else _ended(run, log, records, command)
        stage, done, left = _stage(records), None, None
        if alive and lock is not None and lock.work.title:
            stage = lock.work.title
            done, left = _progress(lock, records, now)
        return RunStatus(run, command, state, stage, self._resolution(run, command, records), done, left,
                         self._said(run, log, state, command), self._changed(run), self._picture(run))

    def _read(self, run: WatchedFolder, name: str, parse: Callable[[bytes], Read]) -> Read | None:
        """The last bytes of a file of the run, parsed, or None where it is missing or damaged."""
        path = run.path / name
        if "/" not in name and name not in run.files:
            return None
        try:
            version = version_of(os.stat(path))
            known = self._known.get(path)
            if known is None or known.tag != version.tag:
                with opened_below(run.root, path) as stream:
                    stream.seek(max(0, version.size - LONGEST))
                    known = _Known(version.tag, _parsed(parse, stream.read(LONGEST)))
                self._known[path] = known
            found: Read | None = known.value
            return found
        except OSError:
            self._known.pop(path, None)
            return None

    def _log(self, run: WatchedFolder) -> _Log:
        return self._read(run, "log.txt", _read_log) or _Log()

    def _command(self, run: WatchedFolder, log: _Log) -> str:
        """The command that made a run, by its log, its settings or its page."""
        if log.command:
            return log.command
        main = run.pages[0] if run.pages else ""
        if main != REPORT and main:
            return "convert" if main.endswith(GROUPS) else PAGES[main]
        return self._read(run, "settings.toml", _command_of_settings) or ("regularise" if main else "")

    def _alive(self, run: WatchedFolder, lock: Told, now: float) -> bool:
        """Whether the process that wrote a lock file is at work."""
        here = lock.host == socket.gethostname() and lock.process is not None
        if here and not _exists(lock.process or 0):
            return False
        path = run.path / "checkpoint" / "lock"
        try:
            version = version_of(os.stat(path))
        except OSError:
            return False
        seen = self._beats.get(path)
        if seen is None or seen.tag != version.tag:
            seen = _Seen(version.tag, now, seen is not None)
            self._beats[path] = seen
        # The clock of a file server may be wrong: what changes while one looks is alive all the same.
        if abs(now - version.changed) < SILENT or (seen.before and now - seen.first < SILENT):
            return True
        return here and _is_halfmap(lock.process or 0)  # suspended, or of a version without heartbeat

    def _resolution(self, run: WatchedFolder, command: str, last: Record) -> float | None:
        """Resolution in A: that of the records, or of what the command sums up in a file of its own."""
        if command == "start":
            summary = self._read(run, "starts.json", _json_object) or {}
            return _figure(_first(summary.get("classes")), "resolution_A")
        if command == "classes2d":
            rows = [one for one in _listed(last.get("classes")) if (_figure(one, "share") or 0.0) > 0]
            return min((r for r in (_figure(one, "resolution") for one in rows) if r is not None), default=None)
        if command == "postprocess":
            summary = self._read(run, "postprocess.json", _json_object) or {}
            corrected = _object(_object(summary.get("resolution_A")).get("corrected"))
            return _figure(corrected, "0.143")
        return _figure(last, "resolution_A")

    def _said(self, run: WatchedFolder, log: _Log, state: State, command: str) -> str:
        if state is State.FAILED:
            return log.why
        if state is State.STOPPED:
            kept = (run.path / "checkpoint" / ("state" if command in RESUMED else "begun")).is_file()
            if not kept:
                return "ended before it was done"
            if command in RESUMED:
                return f"go on with: {shlex.join(['halfmap', 'resume', str(run.path)])}"
            return "the same command, given again, goes on"
        if state is State.FINISHED and command == "start":
            summary = self._read(run, "starts.json", _json_object) or {}
            return str(summary.get("verdict", ""))[:300]
        return ""

    def _changed(self, run: WatchedFolder) -> float:
        """When results last changed, seconds since 1970."""
        times = [0.0]
        for name in (*run.pages, "log.txt", "iterations.jsonl"):
            if name in run.files:
                try:
                    times.append(os.stat(run.path / name).st_mtime)
                except OSError:
                    continue
        return max(times)

    def _picture(self, run: WatchedFolder) -> Picture | None:
        for name in MAPS:
            if name in run.files:
                try:
                    return Picture(run.path / name, version_of(os.stat(run.path / name)).tag)
                except OSError:
                    continue
        return None


def _parsed(parse: Callable[[bytes], Read], content: bytes) -> Read | None:
    try:
        return parse(content)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _read_log(content: bytes) -> _Log:
    """The words of a log of ours: its first command, and how its last session stands."""
    word, why, command = "", "", ""
    for line in content.decode(errors="replace").splitlines():
        text = line[STAMP_LENGTH + 2 :]
        if text.startswith("halfmap "):
            word, why = "begun", ""
        elif text.startswith("command: halfmap ") and not command:
            command = text.split()[2]
        elif text == "finished" and word:
            word = "finished"
        elif text.startswith("stopped: ") and word:
            word, why = "stopped", text.removeprefix("stopped: ")
    return _Log(word, why, command if word else "")


def _last_record(content: bytes) -> Record:
    """The last record of iterations.jsonl that is whole."""
    end = len(content)
    while end > 0:
        start = content.rfind(b"\n", 0, end - 1) + 1
        line = content[start:end].strip()
        if line:
            try:
                return _object(json.loads(line))
            except ValueError:
                pass  # it broke off: the one before counts
        end = start
    return {}


def _command_of_settings(content: bytes) -> str:
    found = SETTINGS_OF.match(content.decode(errors="replace"))
    return found[1] if found else ""


def _json_object(content: bytes) -> Record:
    return _object(json.loads(content))


def _ended(run: WatchedFolder, log: _Log, last: Record, command: str) -> State:
    """How a run ended that is not at work."""
    if log.word == "finished":
        return State.FINISHED
    if log.word == "stopped":
        return State.STOPPED if log.why.startswith("KeyboardInterrupt") else State.FAILED
    if command in RESUMED:
        kept = (run.path / "checkpoint" / "state").is_file()
        return State.FINISHED if last.get("search") == "final" and not kept else State.STOPPED
    return State.FINISHED if run.pages else State.STOPPED  # their pages come last


def _stage(last: Record) -> str:
    """The stage of the last record, in words."""
    iteration, search = _figure(last, "iteration"), last.get("search")
    parts = [f"iteration {iteration:.0f}"] if iteration is not None else []
    return ", ".join(parts + ([search] if isinstance(search, str) and search else []))


def _progress(lock: Told, last: Record, now: float) -> tuple[float | None, float | None]:
    """The part of the work under way that is done, and the seconds that the rest will take at this pace.

    In an iteration what follows the images is taken to be as long as it was in the one before.
    """
    work = lock.work
    if work.total <= 0:
        return None, None
    done = min(max(work.done / work.total, 0.0), 1.0)
    counted, spent = work.done - work.before, now - work.began
    if counted <= 0 or spent <= 0:
        return done, None
    after = _figure(_object(last.get("seconds")), "solve") or 0.0 if work.title.startswith("iteration") else 0.0
    left = spent / counted * max(work.total - work.done, 0) + after
    return done, left if work.done < work.total else None


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return process > 0


def _is_halfmap(process: int) -> bool:
    """Whether a process of this machine is one of ours, as far as that can be seen."""
    try:
        return b"halfmap" in Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return False


def _object(value: Any) -> Record:
    return value if isinstance(value, Mapping) else {}


def _listed(value: Any) -> list[Record]:
    return [_object(one) for one in value] if isinstance(value, list) else []


def _first(value: Any) -> Record:
    return (_listed(value) or [{}])[0]


def _figure(record: Record, key: str) -> float | None:
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e12:
        return None
    return float(value)
