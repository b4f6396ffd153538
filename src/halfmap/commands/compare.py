"""``halfmap compare``: runs of the same particles side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from halfmap import __version__
from halfmap.commands.done import Done
from halfmap.options import table
from halfmap.settings.compare import CompareSettings, validated_compare


def compare(settings: CompareSettings) -> Done:
    """Compare the runs, with page and figure."""
    checked = validated_compare(settings)
    from halfmap.report.pages.compare import ComparedRuns, write_compare_report
    from halfmap.workflows.compare import compare as compared

    out = checked.out
    assert out is not None  # named by validated_compare

    def report(**seen: Any) -> Path:
        """Write compare.html and compare.svg. seen: fields of a ComparedRuns, which no workflow may import."""
        return write_compare_report(out, ComparedRuns(settings=table(checked), version=__version__, **seen))

    compared(checked, report=report)
    return Done(out)
