"""Pages that are files of the repository: ARCHITECTURE.md, CHANGELOG.md and the README of the benchmarks."""

import re
from pathlib import Path

_PAGES = {
    "developers/architecture.md": "ARCHITECTURE.md",
    "developers/changes.md": "CHANGELOG.md",
    "evidence/all.md": "benchmarks/README.md",
}
_LINK = re.compile(r"\]\((?!https?:|#)([^)]*)\)")


def example_package(results: Path) -> str:
    """The README of the package in examples/, without its title, its headings a level lower."""
    text = (results.parents[1] / "examples" / "halfmap-wavelet" / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"^## ", "### ", text.partition("\n")[2], flags=re.MULTILINE)
    # What belongs to an item of a numbered list is indented by four here, where others ask for three.
    return re.sub(r"^(?= {3}\S| {7,}\S)", " ", text, flags=re.MULTILINE)


def pages(root: Path) -> dict[str, str]:
    """Text of each page by path. Links to files of the repository, which the site does not hold, become plain text."""
    return {path: _LINK.sub(r"] (`\1`)", (root / name).read_text(encoding="utf-8")) for path, name in _PAGES.items()}
