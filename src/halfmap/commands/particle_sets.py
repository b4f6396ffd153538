"""Commands on particle sets: ``orientations``, ``audit``, ``select``, ``expand`` and ``subtract``."""

from __future__ import annotations

from halfmap.commands.done import Done
from halfmap.commands.page import page_writer
from halfmap.options import table
from halfmap.settings.expand import ExpandSettings, validated_expand
from halfmap.settings.particle_sets import (
    AuditSettings,
    OrientationsSettings,
    orientations_command,
    validated_audit,
    validated_orientations,
)
from halfmap.settings.select import SelectSettings, validated_select
from halfmap.settings.subtract import SubtractSettings, validated_subtract


def orientations(settings: OrientationsSettings) -> Done:
    """Measure how particles are oriented, with a page."""
    checked = validated_orientations(settings)
    from halfmap.report.pages.orientations import OrientationsPage, write_orientations_page
    from halfmap.workflows.orientations import run

    out = checked.out
    assert out is not None  # named by validated_orientations

    report = page_writer(write_orientations_page, OrientationsPage, out, settings=table(checked),
                         command=orientations_command(settings))
    run(checked, report=report)
    return Done(out)


def audit(settings: AuditSettings) -> Done:
    """Look for particles that are there twice. Succeeds where there are none."""
    checked = validated_audit(settings)
    from halfmap.workflows.audit import run

    return Done(checked.out, not run(checked).leaks)


def select(settings: SelectSettings) -> Done:
    """Write the particles that pass."""
    checked = validated_select(settings)
    from halfmap.workflows.select import select as write

    write(checked)
    return Done(checked.out)


def expand(settings: ExpandSettings) -> Done:
    """Write the particles at all equivalent poses."""
    checked = validated_expand(settings)
    from halfmap.workflows.expand import expand as write

    write(checked)
    return Done(checked.out)


def subtract(settings: SubtractSettings) -> Done:
    """Write the images less what the mask leaves out."""
    checked = validated_subtract(settings)
    from halfmap.workflows.subtract import subtract as write

    write(checked)
    return Done(checked.out)
