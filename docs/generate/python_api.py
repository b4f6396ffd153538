"""Reference of Python names from their signatures and docstrings."""

import inspect
import re
from collections.abc import Iterable
from importlib import import_module
from typing import Any

# Modules whose public names are documented, by the block that shows them.
_BLOCKS = {
    "python-api": "halfmap.api.names",
    "regulariser-interface": "halfmap.regularisation.protocol",
    "regulariser-declaration": "halfmap.regularisation.declaration",
}
_LONG = 88  # characters of a signature in one line


def blocks() -> dict[str, Any]:
    """Functions that give the Markdown of each block by name."""
    return {
        name: lambda _, module=module: "\n".join(_described(import_module(module))) for name, module in _BLOCKS.items()
    }


def _described(module: Any) -> Iterable[str]:
    """The public names of a module: those that it makes by ``public``, or else those that it defines.

    Functions that run a command have its settings as keywords: its page describes them.
    """
    if hasattr(module, "public"):
        commands = {name: command for name, command in module.COMMAND_OF.items() if name not in module.OTHERS}
        yield "| function | what it does | keywords | returns |\n|---|---|---|---|"
        for name, command in commands.items():
            function = module.public(name)
            said = (inspect.getdoc(function) or "").splitlines()[0]
            returned = _name(inspect.signature(function).return_annotation)
            yield f"| `halfmap.{name}` | {said} | [those of the command]({command}.md) | `{returned}` |"
        for name in module.OTHERS:
            value = module.public(name)
            yield from _of_class(name, value) if inspect.isclass(value) else _of_function(name, value, 2)
        return
    names = [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", "") == module.__name__
    ]
    for name in names:
        value = getattr(module, name)
        if inspect.isclass(value):
            yield from _of_class(name, value)
        elif callable(value):
            yield from _of_function(name, value, 2)


def _of_class(name: str, cls: type) -> Iterable[str]:
    yield f"\n## {name}\n"
    if not getattr(cls, "_is_protocol", False):
        yield f"```python\n{_signature(name, cls)}\n```\n"
    yield _text(cls)
    for member, value in vars(cls).items():
        if member.startswith("_") and member != "__call__":
            continue
        value = value.__func__ if isinstance(value, staticmethod | classmethod) else value
        if isinstance(value, property) or hasattr(value, "attrname"):
            shown = value.fget if isinstance(value, property) else value.func  # type: ignore[attr-defined]
            annotation = inspect.signature(shown).return_annotation
            kind = "" if annotation is inspect.Signature.empty else f": {_name(annotation)}"
            yield f"\n### {name}.{member}\n\n```python\n{member}{kind}\n```\n\n{_text(shown)}"
        elif inspect.isfunction(value):
            yield from _of_function(f"{name}.{member}", value, 3)


def _of_function(name: str, function: Any, level: int) -> Iterable[str]:
    yield f"\n{'#' * level} {name}\n\n```python\n{_signature(name.split('.')[-1], function)}\n```\n\n{_text(function)}"


def _name(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))


def _signature(name: str, value: Any) -> str:
    """The call as it would be written, an argument a line where it is long."""
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return name
    parameters = [p for p in signature.parameters.values() if p.name not in ("self", "cls")]
    rows = [_argument(p) for p in parameters]
    named = [i for i, p in enumerate(parameters) if p.kind is p.KEYWORD_ONLY]
    if named and not any(p.kind is p.VAR_POSITIONAL for p in parameters):
        rows.insert(named[0], "*")
    ending = signature.return_annotation
    arrow = "" if inspect.isclass(value) or ending is inspect.Signature.empty else f" -> {_name(ending)}"
    line = f"{name}({', '.join(rows)}){arrow}"
    return line if len(line) <= _LONG else "\n".join([f"{name}(", *(f"    {row}," for row in rows), f"){arrow}"])


def _argument(p: inspect.Parameter) -> str:
    """An argument as it is declared: its name, type and default."""
    stars = {p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "")
    kind = "" if p.annotation is p.empty else f": {_name(p.annotation)}"
    default = "" if p.default is p.empty else f" = {p.default!r}" if kind else f"={p.default!r}"
    return f"{stars}{p.name}{kind}{default}"


def _text(value: Any) -> str:
    """The docstring as Markdown: stars and angle brackets of formulas stand for themselves."""
    text = inspect.getdoc(value) or ""
    parts = re.split(r"(``.+?``|`.+?`)", text, flags=re.DOTALL)
    return "".join(part if part.startswith("`") else re.sub(r"([*<>_|])", r"\\\1", part) for part in parts) + "\n"
