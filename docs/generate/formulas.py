"""LaTeX formulas as MathML, so that a page needs no script and no network to show them."""

import html
import re

from latex2mathml.converter import convert

_INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
_BLOCK = re.compile(r'<div class="arithmatex">\\\[(.*?)\\\]</div>', re.DOTALL)
_NUMBER = re.compile(r"\\tag\{(.*?)\}")


def as_mathml(page: str, name: str) -> str:
    """The page with its formulas as MathML. A ``\\tag`` says where an equation comes from, and stands beside it.

    Raises ValueError, with the page's name, where a formula is not understood.
    """

    def converted(latex: str, display: str) -> str:
        try:
            return convert(html.unescape(latex).strip(), display=display)
        except Exception as error:
            raise ValueError(f"{name}: {latex}: {error!r}") from error

    def block(match: re.Match[str]) -> str:
        number = _NUMBER.search(match[1])
        said = f'<span class="number">{number[1]}</span>' if number else ""
        return f'<div class="equation">{converted(_NUMBER.sub("", match[1]), "block")}{said}</div>'

    page = _BLOCK.sub(block, page)
    return _INLINE.sub(lambda match: converted(match[1], "inline"), page)
