"""``halfmap convert``: particles between RELION's format and cryoSPARC's, and optics groups divided."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from halfmap import __version__
from halfmap.commands.done import Done
from halfmap.options import table
from halfmap.settings.convert import ConvertSettings, convert_command, groups_page, validated_convert


def convert(settings: ConvertSettings) -> Done:
    """Write the other file, and the page of the groups where they are divided."""
    checked = validated_convert(settings)
    from halfmap.report.pages.optics_groups import OpticsGroupsPage, write_optics_groups_page
    from halfmap.workflows.convert import convert as write

    def report(**seen: Any) -> Path:
        """Write the page of the groups. seen: fields of an OpticsGroupsPage, a class that no workflow may import."""
        shown = OpticsGroupsPage(settings=table(checked), version=__version__, command=convert_command(checked), **seen)
        return write_optics_groups_page(groups_page(checked.out), shown)

    write(checked, report)
    return Done(checked.out)
