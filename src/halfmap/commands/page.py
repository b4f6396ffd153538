"""How a command's page is written: by the workflow, which may import no page, when it has something to show."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from halfmap import __version__

Page = TypeVar("Page")


def page_writer(write: Callable[[Path, Page], Path], page: Callable[..., Page], place: Path, **told: Any) \
        -> Callable[..., Path]:
    """Return the function that a workflow calls with the fields that it has seen: it writes the page at ``place``.

    page: the class of the page's fields; told: those that the command knows, to which the version is added.
    """

    def report(**seen: Any) -> Path:
        return write(place, page(version=__version__, **told, **seen))

    return report
