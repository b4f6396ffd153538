"""``halfmap inspect``: what is in a file, and whether a refinement could begin from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from halfmap import __version__
from halfmap.commands.done import Done
from halfmap.options import table
from halfmap.settings.inspect import InspectSettings, inspect_command, validated_inspect


def inspect(settings: InspectSettings) -> Done:
    """Look at the file, with a page where one is asked for. Succeeds where a refinement could begin."""
    checked = validated_inspect(settings)
    from halfmap.report.pages.inspect import InspectedPage, write_inspected_page
    from halfmap.workflows.inspect import run

    def report(**seen: Any) -> Path:
        """Write inspect.html. seen: fields of an InspectedPage, a class that no workflow may import."""
        assert checked.out is not None  # otherwise no page is wanted
        return write_inspected_page(checked.out, InspectedPage(settings=table(checked), version=__version__,
                                                               command=inspect_command(settings), **seen))

    found = run(checked, report=report)
    values = {"kind": found.kind, "facts": {name: text for name, text in found.facts}, "faults": found.faults,
              "notes": found.notes, "seconds": found.seconds}
    return Done(checked.out, not found.faults, values)
