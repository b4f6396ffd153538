"""A Python function for every command, made from its settings: signature, help and all."""

from __future__ import annotations

import inspect
import os
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from halfmap.api.keywords import PROGRESS, SETTINGS, VERBOSE, Keyword, bound, in_python, keywords, values_of
from halfmap.api.particles import Particles
from halfmap.api.results import Results
from halfmap.api.run import Run
from halfmap.commands.done import Done
from halfmap.commands.table import COMMANDS, REPEATED, Leaves, identifier, settings_of, starter
from halfmap.errors import InputError
from halfmap.finding import Finding
from halfmap.options import build, keywords_of, read_toml
from halfmap.runtime import distributed
from halfmap.runtime.interrupts import signals_kept
from halfmap.runtime.terminal import Audience, Listener, heard_by

WIDTH = 100
GIVES: dict[Leaves, type] = {"run": Run, "folder": Results, "values": Results, "particles": Particles}
RETURNS = {
    Run: "halfmap.Run of the folder", Results: "halfmap.Results: what was written and found",
    Particles: "halfmap.Particles of the file",
}  # fmt: skip


@cache
def function(command: str) -> Callable[..., Any]:
    """The function that runs this command."""
    name, wanted = identifier(command), keywords_for(command)
    summary = COMMANDS[command].summary

    def call(*given: Any, **named: Any) -> Any:
        return _run(command, bound(name, wanted, given, named))

    return dressed(call, name, f"{summary[0].upper()}{summary[1:]}.\n\nRuns ``halfmap {command}``.", wanted,
                   GIVES[COMMANDS[command].leaves])


def keywords_for(command: str) -> list[Keyword]:
    """All keywords of a command."""
    return [*keywords(settings_of(command)), *([SETTINGS] if command in REPEATED else []), PROGRESS, VERBOSE]


def dressed(
    call: Callable[..., Any], name: str, said: str, wanted: Sequence[Keyword], gives: type
) -> Callable[..., Any]:
    """The function with the name, the help and the signature that users and editors see."""
    call.__name__ = call.__qualname__ = name
    call.__module__ = "halfmap"
    call.__doc__ = _documented(said, wanted, gives)
    call.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [one.parameter() for one in wanted], return_annotation=gives)
    call.__annotations__ = {one.name: one.annotation for one in wanted} | {"return": gives}
    return call


def _documented(said: str, wanted: Sequence[Keyword], gives: type) -> str:
    """The text of the help: what the function does, each keyword in a line or a few, and what comes back."""
    lines = []
    for one in wanted:
        lines += textwrap.wrap(f"{one.name}: {one.meaning}", WIDTH, initial_indent="    ", subsequent_indent="        ",
                               break_long_words=False, break_on_hyphens=False)
    end = (f"Returns {RETURNS.get(gives, f'halfmap.{gives.__name__}')}. Raises halfmap.InputError for what can be "
           "mended in files or values, and TypeError for a keyword that is unknown or missing.")
    return "\n".join([said, "", "Keywords:", *lines, "", *textwrap.wrap(end, WIDTH)])


def _run(command: str, given: Mapping[str, Any]) -> Any:
    values, cls = dict(given), settings_of(command)
    earlier, progress, verbose = (values.pop(name, None) for name in ("settings", "progress", "verbose"))
    with listening(identifier(command), {name: name for name in keywords_of(cls)}, progress, verbose) as findings:
        kept = {} if earlier is None else read_toml(cls, Path(earlier))
        done = starter(command)(build(cls, kept | values_of(cls, values)))
    return _result(command, done, findings)


def _result(command: str, done: Done, findings: list[Finding]) -> Any:
    gives = GIVES[COMMANDS[command].leaves]
    if gives is Results:
        return Results(done.out, findings=findings, ok=done.succeeded, values=done.values or None)
    assert done.out is not None
    return Run(done.out) if gives is Run else Particles(done.out, findings=findings)


@contextmanager
def listening(
    called: str, names: Mapping[str, str], progress: Listener | None, verbose: bool | None
) -> Iterator[list[Finding]]:
    """Within the block a command is run for the function of this name. Gives the list that its findings come into.

    names: as in `in_python`; progress, verbose: as the caller gave them. An InputError names keywords, not options, and
    what the process had of its own, threads of torch and signals, is after the block as before.
    """
    findings: list[Finding] = []
    with open(os.devnull, "w") as nothing, heard_by(Audience(None if verbose else nothing, progress, findings)):
        try:
            with signals_kept(), _left_as_found():
                yield findings
        except InputError as error:
            raise InputError(in_python(str(error), called, names)) from error


@contextmanager
def _left_as_found() -> Iterator[None]:
    """A command's threads, and whether its sums repeat, are its own: torch, which the caller may use too, has both as
    before after the block. And a command of several processes that fails leaves none of their connections."""
    import torch

    before, repeats = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    try:
        yield
    except BaseException:
        distributed.disband()
        raise
    finally:
        torch.set_num_threads(before)
        torch.use_deterministic_algorithms(repeats)
