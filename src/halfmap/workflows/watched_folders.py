"""Finds what commands wrote below a folder: runs and pages, those under way as well."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from halfmap.runtime.contained import opened_below, version_of

# The pages that commands write beside report.html, by name.
PAGES = {
    "postprocess.html": "postprocess", "local_resolution.html": "local-resolution",
    "orientations.html": "orientations", "reslog.html": "reslog", "tune_ssri.html": "tune-ssri",
    "inspect.html": "inspect", "ctf_refine.html": "ctf-refine", "compare.html": "compare",
}  # fmt: skip
REPORT = "report.html"
GROUPS = "_groups.html"  # after the stem of a particle file: the page of its optics groups
OURS, HEAD = b"Halfmap</title>", 2048  # what every page of ours has in so many bytes
LEFT_OUT = {"checkpoint", "iterations", "__pycache__"}  # folders without runs
MOST = 20_000  # folders that are looked at
SETTLED = 2.0  # seconds: a folder that changed this long ago is not looked through again


@dataclass(frozen=True)
class WatchedFolder:
    """A folder that a command wrote into. root: the folder that is looked through, without links; name: the way from
    there, unique among all; files: names of the files in it; pages: those of them that are pages of ours, the main one
    first."""

    root: Path
    path: Path
    name: str
    files: frozenset[str]
    pages: tuple[str, ...]


@dataclass(frozen=True)
class _Listing:
    changed: int
    files: frozenset[str]
    folders: tuple[str, ...]


@dataclass(frozen=True)
class _Seen:
    """Whether a version of a page is one of ours."""

    tag: str
    ours: bool


@dataclass
class WatchedFolders:
    """Looks for runs again and again. roots: folders. Links to folders are not followed; hidden ones are left out.

    complete: whether the last look went through everything, or ended after `MOST` folders.
    """

    roots: Sequence[Path]
    complete: bool = True
    _listings: dict[Path, _Listing] = field(default_factory=dict)
    _ours: dict[Path, _Seen] = field(default_factory=dict)

    def look(self, now: float) -> list[WatchedFolder]:
        """All that is there now, seconds since 1970. What cannot be read is passed over."""
        self.complete, found, names = True, list[WatchedFolder](), set[str]()
        for given in self.roots:
            root = Path(os.path.realpath(given))
            for path, listing in self._walk(root, now):
                pages = tuple(one for one in _page_names(listing.files) if self._is_ours(root, path / one))
                if not pages and not _begun(listing):
                    continue
                name = self._name(given, root, path)
                while name in names:  # folders of the same name were given
                    name += "+"
                names.add(name)
                found.append(WatchedFolder(root, path, name, listing.files, pages))
        return found

    def _name(self, given: Path, root: Path, path: Path) -> str:
        below = path.relative_to(root).as_posix()
        first = given.name or root.name or root.as_posix()
        if below == ".":
            return first
        return below if len(self.roots) == 1 else f"{first}/{below}"

    def _walk(self, root: Path, now: float) -> Iterator[tuple[Path, _Listing]]:
        waiting, seen = [root], 0
        while waiting:
            seen += 1
            if seen > MOST:
                self.complete = False
                return
            path = waiting.pop()
            listing = self._listing(path, now)
            if listing is not None:
                yield path, listing
                waiting += [path / name for name in reversed(listing.folders) if name not in LEFT_OUT]

    def _listing(self, path: Path, now: float) -> _Listing | None:
        """What is in a folder. One that has not changed since is not read again: stacks may be many."""
        try:
            status = os.stat(path)
            known = self._listings.get(path)
            if known is not None and known.changed == status.st_mtime_ns and now - status.st_mtime > SETTLED:
                return known
            files, folders = set(), []
            with os.scandir(path) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.name)
                    elif _of_interest(entry.name):
                        files.add(entry.name)
        except OSError:  # gone meanwhile, or not ours to read
            self._listings.pop(path, None)
            return None
        listing = _Listing(status.st_mtime_ns, frozenset(files), tuple(sorted(folders)))
        self._listings[path] = listing
        return listing

    def _is_ours(self, root: Path, path: Path) -> bool:
        """Whether a file is a page of ours: others write a report.html too."""
        try:
            tag = version_of(os.stat(path)).tag
            known = self._ours.get(path)
            if known is None or known.tag != tag:
                with opened_below(root, path) as stream:
                    known = _Seen(tag, OURS in stream.read(HEAD))
                self._ours[path] = known
            return known.ours
        except OSError:
            self._ours.pop(path, None)
            return False


def _of_interest(name: str) -> bool:
    """Whether a file's name is kept: a folder may hold many thousands of others."""
    return name.endswith((".html", ".json", ".jsonl", ".mrc", ".mrcs", ".star", ".toml")) or name == "log.txt"


def _page_names(files: frozenset[str]) -> list[str]:
    """The names of files that may be pages, the main one first."""
    named = [name for name in (REPORT, *PAGES) if name in files]
    return named + sorted(name for name in files
                          if name.endswith(GROUPS) and name.removesuffix(GROUPS) + ".star" in files)


def _begun(listing: _Listing) -> bool:
    """Whether a run has begun here that has no page yet."""
    return "log.txt" in listing.files and ("checkpoint" in listing.folders or "iterations.jsonl" in listing.files)
