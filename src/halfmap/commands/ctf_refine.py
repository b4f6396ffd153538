"""``halfmap ctf-refine``: defocus, astigmatism and aberrations from images at their poses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from halfmap import __version__
from halfmap.commands.done import Done
from halfmap.options import table
from halfmap.settings.ctf_refine import CtfRefineSettings, ctf_refine_command, validated_ctf_refine


def ctf_refine(settings: CtfRefineSettings) -> Done:
    """Fit the values, with their page."""
    checked = validated_ctf_refine(settings)
    from halfmap.report.pages.ctf_refine import CtfRefinePage, write_ctf_refine_page
    from halfmap.workflows.ctf_refine import ctf_refine as fit

    def report(**seen: Any) -> Path:
        """Write ctf_refine.html. seen: fields of a CtfRefinePage, a class that no workflow may import."""
        shown = CtfRefinePage(settings=table(checked), version=__version__, command=ctf_refine_command(checked), **seen)
        return write_ctf_refine_page(checked.out, shown)

    fit(checked, report=report)
    return Done(checked.out)
