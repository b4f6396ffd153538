"""Commands that refine or reconstruct many times: ``reslog`` and ``tune-ssri``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from halfmap import __version__
from halfmap.commands.citing import citing
from halfmap.commands.done import Done
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

    def report(**seen: Any) -> Path:
        """Write reslog.html and reslog.svg. seen: fields of a ResLogPage, a class that no workflow may import."""
        return write_reslog_page(out, ResLogPage(settings=reslog_table(checked), version=__version__, **seen))

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

    def report(**seen: Any) -> Path:
        """Write tune_ssri.html. seen: fields of a TuneSsriPage, a class that no workflow may import."""
        return write_tune_ssri_page(out, TuneSsriPage(settings=table(checked), version=__version__, **seen))

    search(checked, report=report, finish=lambda folder: report_from_run(folder, citing()))
    return Done(out)
