"""Reference of every command and every setting, from the parser and the settings dataclasses themselves."""

import argparse
import dataclasses
import html
import re
from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import halfmap.settings
from halfmap.cli.program import COMMANDS, parser_for
from halfmap.cli.relion import RELION_ALWAYS, RELION_NOTES

NAMES = tuple(COMMANDS)
_DEFAULT = re.compile(r" ?\(default: (.*)\)$")


def _fields() -> Iterator[dataclasses.Field[Any]]:
    """The fields of all settings dataclasses."""
    for module in iter_modules(halfmap.settings.__path__):
        for value in vars(import_module(f"halfmap.settings.{module.name}")).values():
            if isinstance(value, type) and dataclasses.is_dataclass(value):
                yield from dataclasses.fields(value)


# What a field says beyond its help: bounds, choices, references.
_DECLARED = {(f.name, f.metadata["help"]): f.metadata for f in _fields() if "help" in f.metadata}


def pages() -> dict[str, str]:
    """A page of all commands, and one for each."""
    index = [
        "# Commands and settings\n\nMade from the program itself. `halfmap COMMAND --help` says the same.\n",
        "| command | what it does |\n|---|---|",
    ]
    index += [f"| [`halfmap {name}`]({name}.md) | {entry.summary} |" for name, entry in COMMANDS.items()]
    return {"reference/index.md": "\n".join(index) + "\n"} | {f"reference/{name}.md": _page(name) for name in NAMES}


def _page(name: str) -> str:
    """The page of one command."""
    program = parser_for(name)
    (commands,) = (a for a in program._actions if isinstance(a, argparse._SubParsersAction))
    parser = commands.choices[name]
    shown = [a for a in parser._actions if a.help is not argparse.SUPPRESS and a.dest != "help"]
    words = [str(a.metavar or a.dest) for a in shown if not a.option_strings]
    text = [
        f"# halfmap {name}\n\n{parser.description}\n",
        f"```text\n{' '.join(['halfmap', name, *words, '[options]' if len(shown) > len(words) else ''])}\n```\n",
    ]
    if parser.epilog:
        text.append(f"{html.escape(parser.epilog)}\n")
    groups = [(g, [a for a in g._group_actions if a in shown]) for g in parser._action_groups]
    filled = sorted([(g, entries) for g, entries in groups if entries], key=lambda pair: pair[0].title == "options")
    for group, entries in filled:
        title = {"options": "more" if len(filled) > 1 else "options", "positional arguments": "arguments"}.get(
            group.title or "", group.title or ""
        )
        text.append(f"## {title[:1].upper()}{title[1:]}\n")
        if group.description:
            text.append(f"{html.escape(group.description)}\n")
        text += [_entry(action, parser) for action in sorted(entries, key=lambda a: bool(a.option_strings))]
    return "\n".join([*text, *_of_relion(parser)])


def _of_relion(parser: argparse.ArgumentParser) -> Iterator[str]:
    """RELION's options that the command accepts without doing what they say."""
    known = {option for action in parser._actions for option in action.option_strings}
    if known >= set(RELION_NOTES):
        yield "## RELION's other options\n\nAccepted, with a note of what is done instead.\n"
        yield "| option | what is done |\n|---|---|"
        yield from (f"| `{option}` | {instead.done} |" for option, instead in RELION_NOTES.items())
        always = ", ".join(f"`{option}`" for option in RELION_ALWAYS)
        yield f"\nAccepted, as they ask for what is always done: {always}.\n"


def _entry(action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    """One option as a term, its facts, and what it means."""
    help_text = (action.help or "").replace("%%", "%")
    declared = next(
        (about for (name, said), about in _DECLARED.items() if name == action.dest and help_text.startswith(said)), {}
    )
    default = _DEFAULT.search(help_text)
    meaning = declared.get("help") or _DEFAULT.sub("", help_text)
    names = action.option_strings or [str(action.metavar or action.dest)]
    value = f" *{html.escape(str(action.metavar))}*" if action.metavar and action.option_strings else ""
    facts = []
    if action.choices:
        facts.append("one of " + ", ".join(f"`{choice}`" for choice in action.choices))
    if default:
        facts.append(f"default: {html.escape(default[1]) or 'none'}")
    elif action.option_strings and declared:
        facts.append("needed" if action.required or "none" not in declared else f"default: {declared['none']}")
    unit = f" {declared['unit']}" if declared.get("unit") else ""
    if "above" in declared:
        facts.append(f"more than {declared['above']:g}{unit}")
    if "at_least" in declared:
        facts.append(f"at least {declared['at_least']:g}{unit}")
    also = [
        a
        for hidden in parser._actions
        if hidden.help is argparse.SUPPRESS and hidden.dest == action.dest
        for a in hidden.option_strings
    ]
    if also:
        facts.append("also " + ", ".join(f"`{name}`" for name in also))
    if declared.get("in_refinements"):
        facts.append("in refinements")
    if declared.get("reference"):
        facts.append(html.escape(declared["reference"]))
    anchor = f"{{ #{action.dest.replace('_', '-')} }}"
    term = ", ".join(f"`{name}`" for name in names)
    said = html.escape(meaning[:1].upper() + meaning[1:])
    beside = f'    <span class="facts">{"; ".join(facts)}</span>\n' if facts else ""
    return f"{term}{anchor}{value}\n:   {said}.\n{beside}"
