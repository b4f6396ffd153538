"""``halfmap compare``: runs of the same particles side by side."""

from __future__ import annotations

from halfmap.commands.done import Done
from halfmap.commands.page import page_writer
from halfmap.options import table
from halfmap.settings.compare import CompareSettings, validated_compare


def compare(settings: CompareSettings) -> Done:
    """Compare the runs, with page and figure."""
    checked = validated_compare(settings)
    from halfmap.report.pages.compare import ComparedRuns, write_compare_report
    from halfmap.workflows.compare import compare as compared

    out = checked.out
    assert out is not None  # named by validated_compare

    compared(checked, report=page_writer(write_compare_report, ComparedRuns, out, settings=table(checked)))
    return Done(out)
