"""``halfmap convert``: particles between RELION's format and cryoSPARC's, and optics groups divided."""

from __future__ import annotations

from halfmap.commands.done import Done
from halfmap.commands.page import page_writer
from halfmap.options import table
from halfmap.settings.convert import ConvertSettings, convert_command, groups_page, validated_convert


def convert(settings: ConvertSettings) -> Done:
    """Write the other file, and the page of the groups where they are divided."""
    checked = validated_convert(settings)
    from halfmap.report.pages.optics_groups import OpticsGroupsPage, write_optics_groups_page
    from halfmap.workflows.convert import convert as write

    report = page_writer(write_optics_groups_page, OpticsGroupsPage, groups_page(checked.out), settings=table(checked),
                         command=convert_command(checked))
    write(checked, report)
    return Done(checked.out)
