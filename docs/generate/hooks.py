"""Hooks of MkDocs: generated pages, tables and figures that pages ask for, and formulas as MathML.

In a page, a line ``{{ name }}`` is replaced by the block of that name (evidence.BLOCKS). A page whose front matter has
``needs_command: NAME`` (``needs_module``, ``needs_file``) is left out, also from the navigation, where there is no such
command (module, file of the repository).
"""

import re
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "docs")]

from generate import commands, evidence, formulas, included  # noqa: E402
from generate.needed import left_out  # noqa: E402

_BLOCK = re.compile(r"^\{\{ *([\w-]+) *\}\}$", re.MULTILINE)
_FETCHED = re.compile(r'<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)="(?:https?:)?//[^"]*"')


def _without(nav: list, path: str) -> list:
    """The navigation without a page."""
    kept = []
    for entry in nav:
        inner = next(iter(entry.values())) if isinstance(entry, dict) else entry
        if isinstance(inner, list):
            kept.append({next(iter(entry)): _without(inner, path)})
        elif inner != path:
            kept.append(entry)
    return kept


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, leave out those whose command is missing, and put all commands in the navigation."""
    for file in list(files.documentation_pages()):
        if left_out(Path(file.abs_src_path).read_text(encoding="utf-8"), ROOT):
            files.remove(file)
            config.nav = _without(config.nav, file.src_uri)
    pages = commands.pages() | included.pages(ROOT)
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    (reference,) = (entry["Reference"] for entry in config.nav if "Reference" in entry)
    reference[1:1] = [{name: f"reference/{name}.md"} for name in commands.NAMES]
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Put blocks in the place of their names."""

    def block(match: re.Match[str]) -> str:
        if match[1] not in evidence.BLOCKS:
            raise PluginError(f"{page.file.src_uri}: there is no block {match[1]}")
        return evidence.BLOCKS[match[1]](ROOT / "benchmarks" / "results")

    return _BLOCK.sub(block, markdown)


def on_page_content(html: str, page: Page, **_: object) -> str:
    """Formulas become MathML, which browsers draw by themselves."""
    return formulas.as_mathml(html, page.file.src_uri)


def on_post_page(output: str, page: Page, **_: object) -> str:
    """Refuse a page that would fetch anything from elsewhere."""
    fetched = _FETCHED.search(output)
    if fetched:
        raise PluginError(f"{page.file.src_uri}: fetches from elsewhere: {fetched[0]}")
    return output
