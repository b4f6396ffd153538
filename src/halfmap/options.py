"""A frozen settings dataclass as command-line options, TOML text and a table: each choice is defined once.

A field's ``metadata`` may hold

- ``help``: what it does, in one line; ``unit``: of its value; ``reference``: where the choice is discussed;
- ``choices``: the values allowed; ``above``, ``at_least``: bounds of a number; ``none``: what None means;
- ``group``: the heading that lists it in the help; ``advanced``: listed in a group of its own;
- ``aliases``: further spellings on the command line, which the help leaves out; ``bare``: the value of the option
  where it is given without one; ``positional``: given without its name; ``short``: a word for the value;
  ``several``: text of one or more words;
- ``in_refinements``: has an effect only in refinements; a class with ``REFINES = False`` has no such option.

Values are ``str``, ``int``, ``float``, ``bool``, ``Path`` or ``tuple[Path, ...]``, or one of these and ``None``.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import math
import shlex
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar, get_args, get_origin, get_type_hints

from halfmap.errors import InputError

Settings = TypeVar("Settings")
Field = dataclasses.Field[Any]

# The word for a value in the help, where its field gives neither a word nor a unit.
_WORDS: dict[type, str] = {int: "N", float: "X", str: "text", Path: "path", tuple: "path"}


_ONLY_REFINEMENTS = "has an effect only in refinements"


class OptionParser(argparse.ArgumentParser):
    """A parser that never guesses an option from a prefix of it, and raises InputError for a wrong one."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(allow_abbrev=False, **keywords)

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")


def flag(field: Field) -> str:
    """The field's option on the command line."""
    return "--" + field.name.replace("_", "-")


def _fields(settings: object) -> tuple[Field, ...]:
    """The fields of a settings class, or of an instance of it, without those that have no effect in it."""
    every = dataclasses.fields(settings)  # type: ignore[arg-type]
    return tuple(f for f in every if getattr(settings, "REFINES", True) or not f.metadata.get("in_refinements"))


def _written(settings: object) -> list[Field]:
    """The fields that are worth writing down: without those that a method ``left_out`` of the settings names."""
    left_out = settings.left_out() if hasattr(settings, "left_out") else ()
    return [f for f in _fields(settings) if f.name not in left_out]
def keywords_of(cls: type) -> dict[str, Field]:
    """The fields of a settings class by name that a user can give, in their order."""
    return {field.name: field for field in _fields(cls)}


def value_types(cls: type) -> dict[str, type]:
    """The type of each field by name, without the ``None`` that may stand beside it."""
    plain = {}
    for name, hint in get_type_hints(cls).items():
        arguments = [a for a in get_args(hint) if a is not types.NoneType]
        plain[name] = tuple if get_origin(hint) is tuple else arguments[0] if arguments else hint
    return plain


def add_options(parser: argparse.ArgumentParser, cls: type) -> None:
    """Add one option for each field to the parser. An option that the user does not give is not in the namespace."""
    kinds = value_types(cls)
    titles = ["settings", "settings with a good default"]
    titles += [f.metadata["group"] for f in _fields(cls) if "group" in f.metadata]
    groups = {title: parser.add_argument_group(title) for title in dict.fromkeys(titles)}
    for field in _fields(cls):
        about = field.metadata
        group = groups[about.get("group") or titles[bool(about.get("advanced"))]]
        text = help_text(field).replace("%", "%%")
        names = [flag(field)]
        hidden = [a for a in about.get("aliases", ()) if a not in names]
        shared: dict[str, Any] = {"dest": field.name, "default": argparse.SUPPRESS}
        if kinds[field.name] is bool:
            group.add_argument(*names, action=argparse.BooleanOptionalAction, help=text, **shared)
            if hidden:
                parser.add_argument(*hidden, action="store_true", help=argparse.SUPPRESS, **shared)
            continue
        words: dict[str, Any] = {"type": kinds[field.name], "choices": about.get("choices")}
        word = about.get("short") or about.get("unit") or _WORDS[kinds[field.name]]
        if not about.get("choices"):
            words["metavar"] = word
        if kinds[field.name] is tuple:
            words |= {"type": Path, "nargs": "+"}
        if "bare" in about:
            words |= {"nargs": "?", "const": about["bare"]}
        if about.get("several"):
            words |= {"nargs": "+", "action": _Joined}
        if about.get("positional") and kinds[field.name] is tuple:
            group.add_argument(field.name, help=text, default=argparse.SUPPRESS, **words | {"nargs": "*"})
        elif about.get("positional"):
            words["type"] = _unless_absent(words["type"])
            group.add_argument(field.name, nargs="?", default=argparse.SUPPRESS, help=text, **words)
        else:
            group.add_argument(*names, help=text, **words, **shared)
        if hidden:
            parser.add_argument(*hidden, help=argparse.SUPPRESS, **words, **shared)


class _Joined(argparse.Action):
    """Several words as one text."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any,
                 option_string: str | None = None) -> None:  # fmt: skip
        setattr(namespace, self.dest, " ".join(values))


def _unless_absent(kind: type) -> Callable[[str], object]:
    """The type for a positional. argparse converts its default too, even the mark that means "no default"."""
    return lambda text: text if text is argparse.SUPPRESS else kind(text)


def help_text(field: Field) -> str:
    """What the field means, the unit of its value, and its default."""
    about = field.metadata
    text = about["help"]
    if about.get("unit"):
        text += f" [{about['unit']}]"
    if field.default is not dataclasses.MISSING:
        text += f" (default: {_shown(field, field.default)})"
    return text


def _shown(field: Field, value: object) -> str:
    if value is None:
        return str(field.metadata.get("none", "none"))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or str(field.metadata.get("none", "none"))
    return f"{value:g}" if isinstance(value, float) else str(value)


def build(cls: type[Settings], values: Mapping[str, Any]) -> Settings:
    """The settings with these values, and defaults for the others.

    Raises InputError that names the options that have no default and are not given.
    """
    fields = _fields(cls)
    missing = [f.metadata.get("short", f.name) if f.metadata.get("positional") else flag(f) for f in fields
               if f.name not in values and f.default is dataclasses.MISSING]
    if missing:
        raise InputError(f"missing: {', '.join(missing)}; see --help")
    kinds = value_types(cls)
    chosen = {f.name: values[f.name] for f in fields if f.name in values}
    return cls(**{name: tuple(value) if kinds[name] is tuple else value for name, value in chosen.items()})


def check_declared(settings: object) -> None:
    """Raise InputError for the first value outside its field's declared choices or bounds, or without an effect."""
    for field in dataclasses.fields(settings):  # type: ignore[arg-type]
        if field not in _fields(settings) and getattr(settings, field.name) != field.default:
            raise InputError(f"{flag(field)} {getattr(settings, field.name)}: {_ONLY_REFINEMENTS}; leave it out")
    for field in _fields(settings):
        value, about = getattr(settings, field.name), field.metadata
        if value is None or isinstance(value, tuple):
            continue
        wrong = f"{flag(field)} {value}: "
        if about.get("choices") and value not in about["choices"]:
            raise InputError(wrong + "choose from " + ", ".join(str(c) for c in about["choices"]))
        unit = f" {about['unit']}" if about.get("unit") else ""
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(wrong + "give a finite number")
        if "above" in about and not value > about["above"]:
            raise InputError(wrong + f"must be more than {about['above']:g}{unit}")
        if "at_least" in about and not value >= about["at_least"]:
            raise InputError(wrong + f"must be at least {about['at_least']:g}{unit}")


def to_toml(settings: object, heading: str) -> str:
    """Every setting as TOML with comments. A setting that is ``None``, which TOML lacks, is commented out."""
    lines = [f"# {line}" for line in heading.splitlines()]
    for field in _written(settings):
        about, value = field.metadata, getattr(settings, field.name)
        remark = about["help"] + (f" [{about['unit']}]" if about.get("unit") else "")
        if about.get("choices"):
            remark += ": " + " | ".join(str(c) for c in about["choices"])
        unset = f"# {field.name} =   # {_shown(field, None)}"
        lines += ["", f"# {remark}", unset if value is None else f"{field.name} = {_toml(value)}"]
    return "\n".join(lines) + "\n"


def to_command(settings: object, program: str) -> str:
    """The shell command that gives these settings: those without a default, and those that differ from it."""
    words, options = shlex.split(program), []
    for field in _fields(settings):
        value = getattr(settings, field.name)
        if value is None or value == field.default:
            continue
        if isinstance(value, bool):
            options.append(flag(field) if value else flag(field).replace("--", "--no-", 1))
        elif field.metadata.get("positional"):
            words += map(str, value) if isinstance(value, tuple) else [str(value)]
        elif isinstance(value, tuple):
            options += [flag(field), *map(str, value)]
        else:
            words_of = str(value).split() if field.metadata.get("several") else [str(value)]
            options += [flag(field), *([repr(value).removesuffix(".0")] if isinstance(value, float) else words_of)]
    return shlex.join(words + options)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def toml_values(path: Path) -> dict[str, Any]:
    """All values in a TOML file, as they stand. Raises InputError where the file cannot be read."""
    import tomllib

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a TOML file ({error})") from None


def read_toml(cls: type, path: Path) -> dict[str, Any]:
    """The values in a TOML file, with the types of the fields of ``cls``, whose method ``check_file``, if it has one,
    sees them first.

    Raises InputError where the file cannot be read, a key is not a setting or has no effect, or a value has the wrong
    type.
    """
    found = toml_values(path)
    if hasattr(cls, "check_file"):
        cls.check_file(path, found)
    kinds, here = value_types(cls), {f.name for f in _fields(cls)}
    values = {}
    for key, value in found.items():
        if key not in kinds:
            near = difflib.get_close_matches(key, kinds, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise InputError(f"{path}: {key} is not a setting{hint}")
        if key not in here:
            raise InputError(f"{path}: {key} {_ONLY_REFINEMENTS}; remove the line")
        values[key] = typed(value, kinds[key], f"{path}: {key} = {value!r}")
    return values


def typed(value: object, kind: type, where: str) -> object:
    """The value with the type of a field: whole numbers do for others, and text for a path.

    Raises InputError, which begins with ``where``, for a value of another type.
    """
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is Path and isinstance(value, str | Path):
        return Path(value)
    if kind is tuple and isinstance(value, list) and all(isinstance(one, str) for one in value):
        return tuple(map(Path, value))
    if type(value) is not kind:
        names = {Path: "a path in quotes", tuple: "a list of paths in quotes", str: "text in quotes",
                 bool: "true or false", int: "a whole number", float: "a number"}
        raise InputError(f"{where}: expected {names[kind]}")
    return value


class SettingRow(NamedTuple):
    """A setting as a table shows it: its value as text, its unit, and what it means."""

    value: str
    unit: str
    meaning: str


def table(settings: object) -> dict[str, SettingRow]:
    """Every setting by name, as a report's table shows it."""
    rows = {}
    for field in _written(settings):
        about, value = field.metadata, getattr(settings, field.name)
        meaning = about["help"] + (f" ({about['reference']})" if about.get("reference") else "")
        unit = about.get("unit", "") if value is not None else ""
        rows[field.name] = SettingRow(_shown(field, value), unit, meaning)
    return rows
