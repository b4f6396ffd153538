"""Commands on finished half maps: ``regularise``, ``postprocess``, ``fsc``, ``local-resolution``, ``model-fsc``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from halfmap.commands.citing import citing
from halfmap.commands.done import Done
from halfmap.commands.page import page_writer
from halfmap.options import table
from halfmap.settings.analysis import (
    LocalResolutionSettings,
    ModelFscSettings,
    validated_local_resolution,
    validated_model_fsc,
    validation_command,
)
from halfmap.settings.commands import command_line
from halfmap.settings.fsc import FscSettings
from halfmap.settings.postprocess import PostprocessSettings, postprocess_command, validated_postprocess
from halfmap.settings.regularise import RegulariseSettings, validated_pair

if TYPE_CHECKING:
    from halfmap.workflows.regularise import Filtered


def regularise(settings: RegulariseSettings) -> Done:
    """Filter the half maps, with their page."""
    regularised(settings)
    return Done(settings.out)


def regularised(settings: RegulariseSettings) -> Filtered:
    """The same. Returns what was made, for a program that goes on with it."""
    checked = validated_pair(settings)
    from halfmap.report.pages.regularise import FilteredPair, write_filtered_report
    from halfmap.workflows.regularise import regularise as filtered

    report = page_writer(write_filtered_report, FilteredPair, checked.out, settings=table(checked),
                         command=command_line(checked), citing=citing())
    return filtered(checked, report=report)


def postprocess(settings: PostprocessSettings) -> Done:
    """Sharpen the map, with its page."""
    checked = validated_postprocess(settings)
    from halfmap.report.pages.postprocess import PostprocessedMaps, write_postprocess_report
    from halfmap.workflows.postprocess import postprocess as sharpen

    out = checked.out
    assert out is not None  # named by validated_postprocess

    report = page_writer(write_postprocess_report, PostprocessedMaps, out, settings=table(checked),
                         command=postprocess_command(checked))
    sharpen(checked, report=report)
    return Done(out)


def fsc(settings: FscSettings) -> Done:
    """Compare the half maps."""
    from halfmap.workflows.fsc_command import run

    summary = run(settings.half1, settings.half2, settings.mask, settings.out, settings.diameter)
    return Done(settings.out, values=summary)


def local_resolution(settings: LocalResolutionSettings) -> Done:
    """Measure the local resolution, with its page."""
    checked = validated_local_resolution(settings)
    from halfmap.report.pages.local_resolution import LocalResolutionPage, write_local_resolution_page
    from halfmap.workflows.local_resolution import run

    out = checked.out
    assert out is not None  # named by validated_local_resolution

    report = page_writer(write_local_resolution_page, LocalResolutionPage, out, settings=table(checked),
                         command=validation_command(checked))
    run(checked, report=report)
    return Done(out)


def model_fsc(settings: ModelFscSettings) -> Done:
    """Compare map and model."""
    checked = validated_model_fsc(settings)
    from halfmap.workflows.model_fsc import model_fsc_summary, run

    return Done(checked.out, values=model_fsc_summary(checked, run(checked)))
