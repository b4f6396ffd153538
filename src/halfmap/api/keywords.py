"""Settings as the keywords of a Python function: their types, what they mean, and values made of what is given."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import operator
import os
import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from halfmap.errors import InputError
from halfmap.options import help_text, keywords_of, typed, value_types
from halfmap.runtime.terminal import ProgressUpdate

PathLike = str | os.PathLike[str]
Words = str | Sequence[int | str]  # one text, or the words that it is made of
OPTION = re.compile(r"--(?:no-)?([a-z][a-z0-9]*(?:-[a-z0-9]+)*)")
FIRST = re.compile(r"--([a-z0-9-]+) (.*?): ")


@dataclass(frozen=True)
class Keyword:
    """One keyword. annotation: its type, as a reader sees it; default: inspect.Parameter.empty where it must be given;
    meaning: in a line; positional: whether its name may be left out."""

    name: str
    annotation: Any
    default: Any
    meaning: str
    positional: bool = False

    @property
    def required(self) -> bool:
        """Whether it must be given."""
        return self.default is inspect.Parameter.empty

    def parameter(self) -> inspect.Parameter:
        """The same for a signature."""
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD if self.positional else inspect.Parameter.KEYWORD_ONLY
        return inspect.Parameter(self.name, kind, default=self.default, annotation=self.annotation)


# Of every command, beside its settings.
PROGRESS = Keyword("progress", Callable[[ProgressUpdate], object] | None, None,
                   "called with a halfmap.ProgressUpdate as the command goes on; what it raises stops the command")
VERBOSE = Keyword("verbose", bool, False, "print what the command line prints")
SETTINGS = Keyword("settings", PathLike | None, None,
                   "settings.toml of an earlier run: its settings hold where no keyword is given")


def keywords(cls: type) -> list[Keyword]:
    """The keywords of a settings class, those without a name first."""
    hints = get_type_hints(cls)
    found = []
    for name, field in keywords_of(cls).items():
        default = inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
        default = str(default) if isinstance(default, Path) else default
        found.append(Keyword(name, _annotation(hints[name], field), default, help_text(field),
                             bool(field.metadata.get("positional"))))
    return sorted(found, key=lambda one: not one.positional)


def _annotation(hint: Any, field: dataclasses.Field[Any]) -> Any:
    """The type of what may be given for a field."""
    members = [one for one in get_args(hint) if one is not types.NoneType] if _optional(hint) else [hint]
    (kind,) = members
    shown: Any = kind
    if field.metadata.get("choices") and get_origin(kind) is not tuple:
        shown = Literal[tuple(field.metadata["choices"])]
    elif field.metadata.get("several"):
        shown = Words
    elif kind is Path:
        shown = PathLike
    elif get_origin(kind) is tuple:
        member: Any = get_args(kind)[0]
        choices = field.metadata.get("choices")
        member = Literal[tuple(choices)] if choices else member
        shown = PathLike | Sequence[PathLike] if member is Path else Sequence[member]
    return shown | None if _optional(hint) else shown


def _optional(hint: Any) -> bool:
    return types.NoneType in get_args(hint) and get_origin(hint) is not tuple


def values_of(cls: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a settings class from what a caller gives by name: paths from text, numbers from NumPy's.

    Raises InputError for a value of another type.
    """
    fields, kinds, hints = keywords_of(cls), value_types(cls), get_type_hints(cls)
    return {name: _value(value, kinds[name], hints[name], fields[name]) for name, value in given.items()}


def _value(value: Any, kind: type, hint: Any, field: dataclasses.Field[Any]) -> Any:
    if value is None and _optional(hint):
        return None
    where = f"{field.name}={value!r}"
    if field.metadata.get("several") and isinstance(value, Iterable) and not isinstance(value, str):
        return " ".join(map(str, value))
    if kind is tuple:
        member = get_args(hint)[0]
        listed = [value] if isinstance(value, str | os.PathLike) else value
        if not isinstance(listed, Iterable):
            raise InputError(f"{where}: expected a list")
        return tuple(typed(_plain(one, member), member, where) for one in listed)
    return typed(_plain(value, kind), kind, where)


def _plain(value: Any, kind: type) -> Any:
    """The value as one of Python's own types, where it stands for one."""
    if kind is Path and isinstance(value, os.PathLike):
        return Path(os.fspath(value))
    if type(value).__module__ == "numpy" and type(value).__name__.startswith("bool"):
        value = bool(value)
    if isinstance(value, bool):
        return value
    if kind is float and isinstance(value, Real):
        return float(value)
    if kind is int and hasattr(value, "__index__"):
        return operator.index(value)
    return value


def bound(called: str, wanted: Sequence[Keyword], given: Sequence[Any], named: Mapping[str, Any]) -> dict[str, Any]:
    """What a caller gives, by name. Raises TypeError, as Python does, and names the nearest keyword to an unknown."""
    known = {one.name for one in wanted}
    for name in named:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise TypeError(f"{called}() has no keyword {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    signature = inspect.Signature([one.parameter() for one in wanted])
    try:
        found = signature.bind_partial(*given, **named).arguments
    except TypeError as error:
        raise TypeError(f"{called}(): {error}") from None
    absent = [one.name for one in wanted if one.required and one.name not in found]
    if absent and found.get("settings") is None:
        raise TypeError(f"{called}(): missing {', '.join(absent)}; see help(halfmap.{called})")
    return found


def in_python(message: str, called: str, names: Mapping[str, str]) -> str:
    """A sentence of the command line with keywords in place of options. names: of settings, and of their keywords."""

    def keyword(option: str) -> str | None:
        return names.get(option.replace("-", "_"))

    first = FIRST.match(message)
    if first and keyword(first[1]):
        message = f"{keyword(first[1])}={first[2]}: {message[first.end():]}"
    message = OPTION.sub(lambda found: keyword(found[1]) or found[0], message)
    return re.sub(r"see (halfmap [a-z0-9-]+ )?--help", f"see help(halfmap.{called})", message)
