"""What `halfmap watch` shows: a list of all runs below some folders, which follows them, and their own pages.

Everything has an address made from the names that were found; a request is looked up among these, and no path is made
of it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote_to_bytes

from halfmap import __version__
from halfmap.errors import InputError
from halfmap.report.pages import findings
from halfmap.report.pages.page import rendered
from halfmap.report.pictures.png import png
from halfmap.report.pictures.thumbnail import thumbnail
from halfmap.runtime.contained import opened_below, version_of
from halfmap.runtime.web_server import NOTHING, Answer
from halfmap.workflows.run_status import Picture, RunReader, RunStatus, State
from halfmap.workflows.watched_folders import PAGES, REPORT, WatchedFolder, WatchedFolders

LEAST = 2.0  # seconds between two looks
SHARE = 0.1  # of the time that looking may take
PICTURES = 4000  # pictures that are kept: 40 MB
SOON = 45.0  # seconds left, below which figures would only flicker
BODY = re.compile(rb"<body[^>]*>")
# A report is complete in itself: style, script and pictures are in it. What is put into it asks whether it has changed.
REPORTS = ("default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:; "
           "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'")


@dataclass(frozen=True)
class _Row:
    """A run in the list. key: its address below /run/; number: of the change that made it; html: what is shown."""

    status: RunStatus
    key: str
    number: int
    html: str


@dataclass(frozen=True)
class _Runs:
    """All runs as one look found them. rows: by name; order: their keys as they are listed; number: of the last look
    that found a change; complete: whether it went through everything."""

    rows: dict[bytes, _Row] = field(default_factory=dict)
    order: tuple[str, ...] = ()
    number: int = 0
    complete: bool = True


class WatchSite:
    """The site that `runtime/web_server.py` serves. roots: the folders; clock: seconds since 1970."""

    def __init__(self, roots: Sequence[Path], clock: Callable[[], float] = time.time) -> None:
        self._roots, self._clock = list(roots), clock
        self._folders, self._reader = WatchedFolders(self._roots), RunReader()
        self._looking, self._drawing = threading.Lock(), threading.Lock()
        self._session = f"{os.getpid():x}{time.time_ns():x}"
        self._runs, self._next = _Runs(), 0.0
        self._pictures: dict[Picture, bytes] = {}

    def __call__(self, path: str, query: str) -> Answer | None:
        """What stands at an address. Raises OSError where it cannot be read just now."""
        if path == "/":
            return self._index()
        if path == "/runs.json":
            since = parse_qs(query).get("since", [""])[0]
            return Answer("application/json", lambda: json.dumps(self._changes(since)).encode())
        first, _, rest = path.removeprefix("/").partition("/")
        asked, _, page = rest.rpartition("/")
        if first == "run":
            return self._page(self._row(asked), page)
        if first == "picture" and page == "map.png":
            return self._picture(self._row(asked))
        return None

    def runs(self) -> list[RunStatus]:
        """All runs as they stand: those at work first, then those that changed last."""
        runs = self._look()
        return [runs.rows[unquote_to_bytes(key)].status for key in runs.order]

    def _row(self, asked: str) -> _Row | None:
        return self._look().rows.get(unquote_to_bytes(asked))

    def _look(self) -> _Runs:
        """Look at all runs, unless that was done just now. While somebody looks, others get what was known before."""
        if self._looking.acquire(blocking=not self._runs.number):
            try:
                began = time.monotonic()
                if began >= self._next:
                    self._runs = self._found(self._clock(), self._runs)
                    self._next = time.monotonic() + max(LEAST, (time.monotonic() - began) / SHARE)
            finally:
                self._looking.release()
        return self._runs

    def _found(self, now: float, before: _Runs) -> _Runs:
        """What there is now. What has changed gets the number of this look."""
        rows, number = dict[bytes, _Row](), before.number + 1
        for folder in self._folders.look(now):
            name = os.fsencode(folder.name)
            status, old = self._reader.status(folder, now), before.rows.get(name)
            if old is not None and old.status == status:
                rows[name] = old
            else:
                key = quote(name)
                rows[name] = _Row(status, key, number, _drawn(status, key))
        latest = sorted(rows.values(), key=lambda row: (-row.status.changed, row.key))
        latest.sort(key=lambda row: row.status.state is not State.RUNNING)
        order, complete = tuple(row.key for row in latest), self._folders.complete
        same = order == before.order and complete == before.complete and all(row.number < number for row in latest)
        return _Runs(rows, order, before.number if same and before.number else number, complete)

    def _changes(self, since: str) -> dict[str, object]:
        """What a page that knows the list as of ``since`` has to change in it."""
        runs = self._look()
        session, _, number = since.partition("-")
        known = int(number) if session == self._session and number.isdecimal() else -1
        told: dict[str, object] = {"now": self._clock(), "as_of": f"{self._session}-{runs.number}"}
        if known != runs.number:
            told["order"] = runs.order
            told["rows"] = {row.key: row.html for row in runs.rows.values() if row.number > known}
            told["complete"] = runs.complete
        return told

    def _index(self) -> Answer:
        runs, script = self._look(), rendered("watch_script.html", {})
        contents = {
            "name": ", ".join(root.name or str(root) for root in self._roots), "script": script,
            "rows": [runs.rows[unquote_to_bytes(key)].html for key in runs.order],
            "folders": [str(root) for root in self._roots], "complete": runs.complete,
            "as_of": f"{self._session}-{runs.number}", "now": self._clock(), "states": [one.value for one in State],
        }  # fmt: skip
        text = rendered("watch.html", contents)
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy = (f"{NOTHING}; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src 'self' data:; "
                  "connect-src 'self'")
        return Answer("text/html; charset=utf-8", lambda: text.encode(errors="replace"), policy=policy)

    def _page(self, row: _Row | None, page: str) -> Answer | None:
        if row is None or page not in row.status.folder.pages:
            return None
        folder = row.status.folder
        with opened_below(folder.root, folder.path / page) as stream:
            version = version_of(os.fstat(stream.fileno()))
        tag = f"{__version__}-{version.tag}"

        def content() -> bytes:
            with opened_below(folder.root, folder.path / page) as stream:
                return _watched(stream.read(), tag)

        return Answer("text/html; charset=utf-8", content, tag, version.changed, REPORTS)

    def _picture(self, row: _Row | None) -> Answer | None:
        wanted = row.status.picture if row is not None else None
        if row is None or wanted is None:
            return None
        drawn = self._drawn_picture(row.status.folder, wanted)
        return Answer("image/png", lambda: drawn, wanted.tag, lasting=True) if drawn else None

    def _drawn_picture(self, folder: WatchedFolder, wanted: Picture) -> bytes:
        """The picture of this version of a file, drawn once; empty where there is none to draw. One after the other,
        so that a long list does not read many maps at once."""
        with self._drawing:
            drawn = self._pictures.pop(wanted, None)
            if drawn is None:
                try:
                    with opened_below(folder.root, wanted.path) as stream:
                        drawn = png(thumbnail(stream, wanted.path))
                except (OSError, InputError):
                    drawn = b""
            self._pictures[wanted] = drawn  # the latest one last
            while len(self._pictures) > PICTURES:
                del self._pictures[next(iter(self._pictures))]
            return drawn


def _watched(page: bytes, tag: str) -> bytes:
    """A page with what loads it again once it has another tag; one without a body as it is."""
    body = BODY.search(page)
    if body is None:
        return page
    script = rendered("watch_page.html", {"tag": f'"{tag}"'}).encode()
    return page[: body.end()] + script + page[body.end() :]


def _drawn(status: RunStatus, key: str) -> str:
    """The row of a run. It is drawn again only where something in it has changed, so it says no ages."""
    folder = status.folder
    pages = [{"name": page, "words": _page_words(page)} for page in folder.pages]
    # The address has the version in it, by which a browser keeps the picture.
    picture = f"/picture/{key}/map.png?{status.picture.tag}" if status.picture is not None else ""
    return rendered("watch_row.html", {
        "key": key, "name": folder.name, "status": status, "state": status.state.value, "picture": picture,
        "pages": pages, "resolution": findings.figure(status.resolution), "left": _left(status.seconds_left),
        "percent": None if status.done is None else f"{100 * status.done:.0f}",
    })  # fmt: skip


def _left(seconds: float | None) -> str:
    """The time left, in words; empty where it is not known."""
    if seconds is None:
        return ""
    if seconds < SOON:
        return "less than a minute"
    figure, unit = findings.duration(max(seconds, 100.0) if seconds >= 95 else seconds)
    return f"{figure} {unit}"


def _page_words(page: str) -> str:
    return "report" if page == REPORT else PAGES.get(page, "optics groups").replace("-", " ")
