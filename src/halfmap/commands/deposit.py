"""``halfmap deposit``: the files of an EMDB entry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from halfmap.commands.done import Done
from halfmap.settings.deposit import DepositSettings, validated_deposit


def deposit(settings: DepositSettings) -> Done:
    """Write the files, with the entry's image."""
    checked = validated_deposit(settings)
    from halfmap.report.pages.deposit import write_deposit_pictures
    from halfmap.workflows.deposit import deposit as write

    def pictures(**seen: Any) -> list[Path]:
        """Write the entry's image and a ChimeraX script, which no workflow may draw."""
        return write_deposit_pictures(checked.out, **seen)

    write(checked, pictures)
    return Done(checked.out)
