"""Writes one page: fills in its template and writes the file whole or not at all."""

from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2

from halfmap.maps.mrc import replaced_atomically
from halfmap.report.pages import findings

TEMPLATES = Path(__file__).parents[1] / "templates"


def write_page(folder: Path, template: str, contents: dict[str, Any], name: str = "report.html") -> Path:
    """Fill in a template and write it to FOLDER/NAME in a single step; return the path.

    contents: what the template shows, by name.
    """
    target = folder / name
    text = rendered(template, contents)
    with replaced_atomically(target) as waiting:
        waiting.write(text.encode("utf-8"))
    return target


def rendered(template: str, contents: dict[str, Any]) -> str:
    """A template filled in. contents: what it shows, by name; text among it is escaped."""
    return _environment().get_template(template).render(**contents)


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    folder = jinja2.FileSystemLoader(TEMPLATES)
    environment = jinja2.Environment(
        loader=folder, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.globals["grouped"] = findings.grouped  # macros of other files see nothing else
    return environment


def now() -> str:
    """The local time of writing for the head of a page, as 2031-02-03 04:05."""
    return datetime.now(UTC).astimezone().strftime("%Y-%m-%d %H:%M")
