"""Commands that refine or reconstruct many times: ``reslog`` and ``tune-ssri``."""

from __future__ import annotations

from halfmap.commands.citing import citing
from halfmap.commands.done import Done
from halfmap.commands.page import page_writer
from halfmap.options import table
from halfmap.settings.reslog import ManyResLogSettings, reslog_table, validated_reslog
from halfmap.settings.tune import TuneSsriSettings, validated_tune


def reslog(settings: ManyResLogSettings) -> Done:
    """Measure the resolution of subsets, with page and picture."""
    checked = validated_reslog(settings)
    from halfmap.report.pages.reslog import ResLogPage, write_reslog_page
    from halfmap.report.pages.run_folder import report_from_run
    from halfmap.workflows.reslog import reslog as measure

    out = checked.out
    assert out is not None  # named by validated_reslog

    report = page_writer(write_reslog_page, ResLogPage, out, settings=reslog_table(checked))
    measure(checked, report=report, finish=lambda folder: report_from_run(folder, citing()))
    return Done(out)


def tune_ssri(settings: TuneSsriSettings) -> Done:
    """Search the parameters, with their page."""
    checked = validated_tune(settings)
    from halfmap.report.pages.run_folder import report_from_run
    from halfmap.report.pages.tune_ssri import TuneSsriPage, write_tune_ssri_page
    from halfmap.workflows.tune_ssri import tune_ssri as search

    out = checked.out
    assert out is not None  # named by validated_tune

    report = page_writer(write_tune_ssri_page, TuneSsriPage, out, settings=table(checked))
    search(checked, report=report, finish=lambda folder: report_from_run(folder, citing()))
    return Done(out)
