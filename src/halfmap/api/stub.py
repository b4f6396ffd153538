"""What type checkers and editors read of ``import halfmap``: a stub, made from the settings.

``python -m halfmap.api.stub`` writes it. Options of regularisers from other packages are not in it.
"""

from __future__ import annotations

import inspect
import textwrap
import types
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import numpy as np

import halfmap
from halfmap.api.functions import keywords_for
from halfmap.api.keywords import Keyword
from halfmap.api.names import COMMAND_OF, OTHERS, PUBLIC
from halfmap.api.pairs import FSC_KEYWORDS, REGULARISE_KEYWORDS

STUB = Path(halfmap.__file__).with_suffix(".pyi")
WIDTH = 116
HEAD = '''\
# Made from the settings by `python -m halfmap.api.stub`: a test says when it is to be made again.

import os
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias, overload

from numpy.typing import NDArray

{imports}

__version__: str

PathLike: TypeAlias = str | os.PathLike[str]
MapLike: TypeAlias = str | os.PathLike[str] | NDArray[Any]
'''


def stub() -> str:
    """The text of the stub."""
    functions = {name: function for name, function in ((name, getattr(halfmap, name)) for name in PUBLIC)
                 if inspect.isfunction(function)}
    imports = sorted(f"from {module} import {name} as {name}" for name, module in OTHERS.items()
                     if name not in functions)
    parts = [HEAD.format(imports="\n".join(imports))]
    for name, function in functions.items():
        wanted = {"fsc": FSC_KEYWORDS, "regularise": REGULARISE_KEYWORDS}.get(name) or keywords_for(COMMAND_OF[name])
        parts.append(_function(name, wanted, inspect.signature(function).return_annotation, function.__doc__ or ""))
    return "\n".join(parts)


def _function(name: str, wanted: Sequence[Keyword], gives: type, doc: str) -> str:
    """A function; where an earlier run's settings may stand for what is required, its two forms."""
    head = f"def {name}(\n{{}}) -> {gives.__name__}:"
    said = textwrap.indent('"""' + doc.replace("\\", "\\\\") + '\n"""', "    ", lambda line: bool(line.strip()))
    if not any(one.name == "settings" for one in wanted) or not any(one.required for one in wanted):
        return f"{head.format(_parameters(wanted))}\n{said}\n"
    given = [replace(one, annotation=_without_none(one.annotation), default=inspect.Parameter.empty, positional=False)
             if one.name == "settings" else replace(one, default=...) if one.required else one for one in wanted]
    return (f"@overload\n{head.format(_parameters(wanted))}\n{said}\n\n@overload\n"
            f"{head.format(_parameters(given))}\n    ...\n")


def _parameters(wanted: Iterable[Keyword]) -> str:
    lines, named = [], False
    for one in wanted:
        if not one.positional and not named:
            lines.append("    *,\n")
            named = True
        default = "" if one.required else f" = {'...' if one.default is ... else _literal(one.default)}"
        lines.append(_folded(f"    {one.name}: {_shown(one.annotation)}{default},"))
    return "".join(lines)


def _literal(value: object) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"' if isinstance(value, str) else repr(value)


def _folded(line: str) -> str:
    """A line that is not too long: the words of a type go onto lines of their own."""
    if len(line) <= WIDTH or "Literal[" not in line:
        return line + "\n"
    before, rest = line.split("Literal[", 1)
    inside, after = rest.split("]", 1)
    words = textwrap.fill(inside, WIDTH - 8, initial_indent=" " * 8, subsequent_indent=" " * 8)
    return f"{before}Literal[\n{words},\n    ]{after}\n"


def _without_none(annotation: Any) -> Any:
    left = [one for one in get_args(annotation) if one is not types.NoneType]
    return Union[tuple(left)]  # noqa: UP007 - of a list


def _shown(annotation: Any) -> str:
    """A type as the stub writes it."""
    if get_origin(annotation) in (Union, types.UnionType):
        members = [_shown(one) for one in get_args(annotation)]
        path = {"str", "os.PathLike[str]"}
        if path <= {*members}:
            alias = "MapLike" if "NDArray[Any]" in members else "PathLike"
            members = [alias, *(one for one in members if one not in path | {"NDArray[Any]"})]
        return " | ".join(members)
    if get_origin(annotation) is Literal:
        return f"Literal[{', '.join(_literal(one) for one in get_args(annotation))}]"
    if annotation is types.NoneType:
        return "None"
    if annotation is np.ndarray:
        return "NDArray[Any]"
    if isinstance(annotation, list):
        return f"[{', '.join(map(_shown, annotation))}]"
    if get_origin(annotation) is not None:
        name = str(annotation).partition("[")[0].removeprefix("collections.abc.").removeprefix("typing.")
        return f"{name}[{', '.join(map(_shown, get_args(annotation)))}]"
    return str(annotation.__name__)


if __name__ == "__main__":
    STUB.write_text(stub(), encoding="utf-8")
