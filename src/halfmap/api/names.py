"""The names that ``import halfmap`` offers, and where each is made. Importing this costs nothing."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from halfmap.commands.table import COMMANDS, identifier

# The rest of the package is the folder halfmap.report: a run writes its page by Run.write_report.
COMMAND_OF = {identifier(name): name for name in COMMANDS if name != "report"}
OTHERS = {
    "Run": "halfmap.api.run", "Results": "halfmap.api.results", "Particles": "halfmap.api.particles",
    "Curves": "halfmap.api.curves", "RegularisedMaps": "halfmap.api.pairs", "fsc": "halfmap.api.pairs",
    "regularise": "halfmap.api.pairs", "InputError": "halfmap.errors", "Finding": "halfmap.finding",
    "ProgressUpdate": "halfmap.runtime.terminal",
}  # fmt: skip
PUBLIC = tuple(sorted({*COMMAND_OF, *OTHERS}))


def public(name: str) -> Any:
    """The function or class of this name. Raises KeyError for one that is not offered."""
    if name in OTHERS:
        return getattr(import_module(OTHERS[name]), name)
    command = COMMAND_OF[name]
    return import_module("halfmap.api.functions").function(command)
