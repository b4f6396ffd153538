"""What a user can choose for ``halfmap watch``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from halfmap.errors import InputError
from halfmap.options import check_declared

MOST_PORT = 65535


@dataclass(frozen=True, kw_only=True)
class WatchSettings:
    """Settings of ``halfmap watch``."""

    folders: tuple[Path, ...] = field(metadata={
        "help": "folders of runs, or with runs below them; links to other folders are not followed",
        "short": "RUN|FOLDER", "positional": True})
    port: int | None = field(default=None, metadata={
        "help": "port that the pages are served at", "at_least": 1, "none": "the first free one from 8642"})
    host: str = field(default="127.0.0.1", metadata={
        "help": "address of this machine that is listened at; at 127.0.0.1 only this machine is answered, at 0.0.0.0 "
                "everybody who reaches it", "short": "address"})
    allow_host: str | None = field(default=None, metadata={
        "help": "names by which browsers may call this machine, beside localhost and addresses in figures",
        "short": "name", "several": True, "none": "no others"})


def validated_watch(settings: WatchSettings) -> WatchSettings:
    """Check the settings, and make paths absolute. A folder given twice counts once.

    Raises InputError where no folder is given, for a folder that is none, and for a port that does not exist.
    """
    check_declared(settings)
    if settings.port is not None and settings.port > MOST_PORT:
        raise InputError(f"--port {settings.port}: must be at most {MOST_PORT}")
    if not settings.folders:
        raise InputError("missing: the folder of a run, or one with runs below it; see halfmap watch --help")
    found = [folder.expanduser().absolute() for folder in settings.folders]
    for folder in found:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; give the folder of a run, or one with runs below it")
    names = " ".join(name.lower().rstrip(".") for name in (settings.allow_host or "").split())
    return dataclasses.replace(settings, folders=tuple(dict.fromkeys(found)), allow_host=names or None)
