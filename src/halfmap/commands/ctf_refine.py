"""``halfmap ctf-refine``: defocus, astigmatism and aberrations from images at their poses."""

from __future__ import annotations

from halfmap.commands.done import Done
from halfmap.commands.page import page_writer
from halfmap.options import table
from halfmap.settings.ctf_refine import CtfRefineSettings, ctf_refine_command, validated_ctf_refine


def ctf_refine(settings: CtfRefineSettings) -> Done:
    """Fit the values, with their page."""
    checked = validated_ctf_refine(settings)
    from halfmap.report.pages.ctf_refine import CtfRefinePage, write_ctf_refine_page
    from halfmap.workflows.ctf_refine import ctf_refine as fit

    report = page_writer(write_ctf_refine_page, CtfRefinePage, checked.out, settings=table(checked),
                         command=ctf_refine_command(checked))
    fit(checked, report=report)
    return Done(checked.out)
