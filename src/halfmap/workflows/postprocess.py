"""`halfmap postprocess`: the mask, FSC, B factor and sharpened map of two finished half maps."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from halfmap.errors import InputError
from halfmap.finding import Finding
from halfmap.maps.mrc import replaced_atomically, write_map
from halfmap.particles.mtf import read_mtf
from halfmap.runtime import terminal
from halfmap.settings.postprocess import PostprocessSettings, postprocess_command
from halfmap.validation.bfactor import (
    GuinierFit,
    Sharpening,
    fit_guinier,
    fsc_weight,
    inverse_square,
    log_amplitude,
    sharpened,
)
from halfmap.validation.fsc import GOLD_STANDARD, resolution, tail_verdict, write_fsc_xml
from halfmap.workflows.half_map_pair import HalfMaps, read_half_maps
from halfmap.workflows.local_sharpening import LocallyFiltered, locally_sharpened

FEW_SHELLS = 5  # a line through fewer shells does not measure a B factor
TOO_SHARP = 2.0  # times the B factor of the Guinier plot
CURVES = ("unmasked", "spherical", "masked", "randomised", "corrected")

Report = Callable[..., Any]


@dataclass(frozen=True)
class Guinier:
    """The Guinier plot: ln(amplitude) by shell [s] of the mean of the half maps, and the lines fitted to it.

    original: of the map as it is; mtf_divided: after division by the MTF; weighted: that, also weighted by the FSC;
    sharpened: of the sharpened map before its low-pass. fit: the line through `weighted`, None where there are too few
    shells. bfactor: the one applied (A^2).

    masked and masked_fit: as `weighted` and `fit`, but of the map within the mask. `fit` is of the whole box, as in
    relion_postprocess. Where the box holds much more noise than molecule it gives too small a B factor, because the
    weights are those of the masked FSC.
    """

    original: Tensor
    mtf_divided: Tensor
    weighted: Tensor
    masked: Tensor
    sharpened: Tensor
    fit: GuinierFit | None
    masked_fit: GuinierFit | None
    bfactor: float


@dataclass(frozen=True)
class Postprocessed:
    """The result of sharpening a pair of half maps.

    resolution: of the pair, in A; lowpass: the one applied, in A; map: the sharpened map [z,y,x]; local: the same with
    a local filter; verdict: what is to be said of it.
    """

    pair: HalfMaps
    resolution: float
    guinier: Guinier
    lowpass: float | None
    map: Tensor
    local: LocallyFiltered | None
    verdict: list[Finding]


def postprocess(settings: PostprocessSettings, report: Report | None = None) -> Postprocessed:
    """Sharpen the mean of two half maps, and write the map and all measurements into settings.out.

    Writes map_sharpened.mrc, map_sharpened_masked.mrc, mask.mrc, fsc.xml, guinier.csv and postprocess.json, and with
    settings.local map_sharpened_local.mrc (and theta.mrc, if the local cut-off was determined here). settings: as
    `validated_postprocess` returns them. report: writes the page, and is called with the page's fields. Raises
    InputError where maps, mask or local cut-offs are not on one grid, or a file cannot be read or written.
    """
    assert settings.half1 and settings.half2 and settings.out  # named by validated_postprocess
    console = terminal.console()
    with console.status("reading and comparing the half maps"):
        pair = read_half_maps(settings.half1, settings.half2, settings.mask, None)
        _check_nyquist(settings, pair)
        mtf = _mtf(settings, pair)
    with console.status("sharpening"):
        done = _sharpen(settings, pair, mtf)
    written = _write(settings, done)
    if report is not None:
        report(**_shown(settings, done))
        written += [name for name in ("map_sharpened.cxc", "postprocess.html") if (settings.out / name).is_file()]
    _print(console, settings, done, written)
    return done


def _mtf(settings: PostprocessSettings, pair: HalfMaps) -> Tensor | None:
    """The detector's MTF on the grid of the half maps; None where none is given."""
    if settings.mtf is None:
        return None
    return read_mtf(settings.mtf).on_grid(pair.box, pair.pixel_size, settings.mtf_pixel or pair.pixel_size)


def _check_nyquist(settings: PostprocessSettings, pair: HalfMaps) -> None:
    """Raise InputError where a resolution is finer than the maps can hold."""
    finest = 2 * pair.pixel_size
    for name, value in (("lowpass", settings.lowpass), ("fit-to", settings.fit_to), ("fit-from", settings.fit_from)):
        if value and value < 0.999 * finest:
            none = {"lowpass": "; 0 for no filter", "fit-to": "; 0 for Nyquist"}.get(name, "")
            raise InputError(f"--{name} {value:g}: finer than the maps' Nyquist frequency, {finest:.2f} A; give a "
                             f"coarser one{none}")


def _sharpen(settings: PostprocessSettings, pair: HalfMaps, mtf: Tensor | None) -> Postprocessed:
    corrected = resolution(pair.curves.corrected, pair.box, pair.pixel_size)
    mean = (pair.half1 + pair.half2) / 2
    weight = fsc_weight(pair.curves.corrected) if settings.fsc_weight else None
    guinier = _guinier(settings, pair, mean, mtf)
    lowpass = settings.lowpass if settings.lowpass is not None else corrected
    applied = sharpened(mean, pair.pixel_size, Sharpening(guinier.bfactor, mtf, weight, lowpass or None))
    local = None
    if settings.local:
        # The local filter replaces the FSC weights and the low-pass, which are the same everywhere.
        plain = sharpened(mean, pair.pixel_size, Sharpening(guinier.bfactor, mtf))
        theta = None if settings.run is None else settings.run / "theta.mrc"
        local = locally_sharpened(plain, pair, theta if theta and theta.exists() else None)
    if not all(bool(v.isfinite().all()) for v in (applied, *([] if local is None else [local.map]))):
        raise InputError(f"--bfactor {guinier.bfactor:g}: grey values of the map become infinite; give one nearer to 0")
    verdict = pair.verdict() + tail_verdict(pair.curves, pair.box, pair.pixel_size) + _fit_verdict(settings, guinier)
    return Postprocessed(pair, corrected, guinier, lowpass or None, applied, local, verdict)


def _guinier(settings: PostprocessSettings, pair: HalfMaps, mean: Tensor, mtf: Tensor | None) -> Guinier:
    box, pixel_size = pair.box, pair.pixel_size
    original = log_amplitude(mean)
    divided = original if mtf is None else log_amplitude(mean, mtf.reciprocal())
    weight = fsc_weight(pair.curves.corrected)
    correction = weight.log() if settings.fsc_weight else torch.zeros_like(weight)
    weighted = divided + correction
    masked = log_amplitude(mean * pair.mask, None if mtf is None else mtf.reciprocal()) + correction
    finest = settings.fit_to if settings.fit_to is not None else resolution(pair.curves.corrected, box, pixel_size)
    fit, masked_fit = (
        fit_guinier(values, box, pixel_size, settings.fit_from, finest or 2 * pixel_size)
        for values in (weighted, masked)
    )
    bfactor = settings.bfactor if settings.bfactor is not None else fit.bfactor if fit else 0.0
    kept = Sharpening(bfactor, mtf, weight if settings.fsc_weight else None)
    after = log_amplitude(mean, kept.gain(box, pixel_size))
    return Guinier(original, divided, weighted, masked, after, fit, masked_fit, bfactor)


def _fit_verdict(settings: PostprocessSettings, guinier: Guinier) -> list[Finding]:
    """What is to be said of the B factor; empty where nothing is unusual."""
    fit = guinier.fit
    if settings.bfactor is not None:
        return _given_verdict(settings.bfactor, guinier)
    if fit is None:
        return [
            _odd_fit(
                "no B factor",
                f"no B factor was applied: the half maps agree on too little beyond {settings.fit_from:g} A for a line "
                "through the Guinier plot; give one with --bfactor",
            )
        ]
    if fit.bfactor > 0:
        return [
            _odd_fit(
                "B factor blurs",
                f"the Guinier plot rises: the B factor of +{fit.bfactor:.0f} A^2 blurs the map; the half maps were "
                "sharpened or filtered before, or hold mostly noise; give one with --bfactor",
            )
        ]
    if fit.shells < FEW_SHELLS or fit.error > 0.5 * abs(fit.bfactor):
        return [
            _odd_fit(
                "B factor uncertain",
                f"the B factor of {fit.bfactor:.0f} +- {fit.error:.0f} A^2 comes from {fit.shells} shells and is "
                "uncertain; compare the map with ones sharpened by a given --bfactor",
            )
        ]
    inside = guinier.masked_fit
    if inside is not None and _differ(fit, inside):
        return [
            _odd_fit(
                "B factor differs within the mask",
                f"within the mask the Guinier plot says a B factor of {inside.bfactor:.0f} +- {inside.error:.0f} A^2, "
                f"not {fit.bfactor:.0f}: noise of the solvent hides part of the fall in the whole box, where it is "
                f"measured, as relion_postprocess does; compare with --bfactor {inside.bfactor:.0f}",
            )
        ]
    return []


def _given_verdict(bfactor: float, guinier: Guinier) -> list[Finding]:
    """What is to be said of a B factor (A^2) that the user gave, beside what the Guinier plot says."""
    if bfactor > 0:
        return [_odd_fit("B factor blurs", f"the given B factor of {bfactor:g} A^2 blurs the map")]
    lines = [fit for fit in (guinier.fit, guinier.masked_fit) if fit is not None]
    if not lines or bfactor > TOO_SHARP * min(fit.bfactor - 2 * fit.error for fit in lines):
        return []
    steepest = min(lines, key=lambda fit: fit.bfactor)
    text = (f"the given B factor of {bfactor:g} A^2 sharpens far more than the Guinier plot asks for "
            f"({steepest.bfactor:.0f} +- {steepest.error:.0f} A^2): what is fine in the map is amplified noise; leave "
            "--bfactor out, or give one near that")
    return [_odd_fit("B factor too sharp", text)]


def _odd_fit(name: str, text: str) -> Finding:
    return Finding(name, text, "Guinier plot")


def _differ(fit: GuinierFit, other: GuinierFit) -> bool:
    """Whether the B factors of two lines differ by more than a fifth and by more than twice their joint error."""
    apart = abs(fit.bfactor - other.bfactor)
    return apart > 0.2 * abs(fit.bfactor) and apart > 2 * math.hypot(fit.error, other.error)


def _write(settings: PostprocessSettings, done: Postprocessed) -> list[str]:
    """Write everything but the page. Returns the names of the files."""
    out, pair = settings.out, done.pair
    assert out is not None
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out}: cannot make this folder: {error.strerror}; choose another") from error
    named = {"map_sharpened": done.map, "map_sharpened_masked": done.map * pair.mask, "mask": pair.mask}
    if done.local is not None:
        named["map_sharpened_local"] = done.local.map
        if done.local.found_here:
            named["theta"] = done.local.theta
    for name, values in named.items():
        write_map(out / f"{name}.mrc", values, pair.pixel_size, placement=pair.placement)
    write_fsc_xml(out / "fsc.xml", pair.curves.corrected, pair.box, pair.pixel_size)
    summary = json.dumps(_summary(settings, done), indent=1) + "\n"
    texts = {"guinier.csv": _guinier_csv(done), "postprocess.json": summary}
    for name, text in texts.items():
        with replaced_atomically(out / name) as stream:
            stream.write(text.encode())
    return [*(f"{name}.mrc" for name in named), "fsc.xml", *texts]


def _columns(done: Postprocessed) -> dict[str, list[float | None]]:
    """The Guinier plot as named columns. None stands where a shell is empty, and outside the fitted line."""
    guinier, pair = done.guinier, done.pair
    x = inverse_square(pair.box, pair.pixel_size)
    line = torch.full_like(x, math.nan)
    if guinier.fit is not None:
        fitted = slice(guinier.fit.first, guinier.fit.last + 1)
        line[fitted] = guinier.fit.line(x[fitted])
    columns = {
        "inverse_square": x, "original": guinier.original, "mtf_divided": guinier.mtf_divided,
        "weighted": guinier.weighted, "masked": guinier.masked, "sharpened": guinier.sharpened, "line": line,
    }  # fmt: skip
    return {name: [v if math.isfinite(v) else None for v in values.tolist()] for name, values in columns.items()}


def _guinier_csv(done: Postprocessed) -> str:
    columns = _columns(done)
    lines = ["shell,1/d^2_1/A^2," + ",".join(f"ln_amplitude_{name}" for name in list(columns)[1:])]
    for s, row in enumerate(zip(*columns.values(), strict=True)):
        lines.append(f"{s}," + ",".join("" if value is None else f"{value:.8g}" for value in row))
    return "\n".join(lines) + "\n"


def _summary(settings: PostprocessSettings, done: Postprocessed) -> dict[str, Any]:
    """Everything but the maps as plain JSON values. A resolution is null where the curve stays above the threshold."""
    pair, fit = done.pair, done.guinier.fit
    start = pair.curves.from_shell
    extent = pair.box * pair.pixel_size
    return {
        "command": postprocess_command(settings),
        "half1": str(settings.half1), "half2": str(settings.half2),
        "box": pair.box, "pixel_size_A": pair.pixel_size,
        "mask": pair.mask_name, "mask_volume_A3": float(pair.mask.sum(dtype=torch.float64)) * pair.pixel_size**3,
        "randomised_from_A": extent / start if start <= pair.box // 2 else None,
        "resolution_A": {name: {str(t): pair.resolution(name, t) for t in (GOLD_STANDARD, 0.5)} for name in CURVES},
        "bfactor_A2": done.guinier.bfactor,
        "bfactor_from": "the Guinier plot" if settings.bfactor is None and fit else
                        "--bfactor" if settings.bfactor is not None else "none",
        "guinier_fit": _fit_summary(fit, extent), "guinier_fit_masked": _fit_summary(done.guinier.masked_fit, extent),
        "fsc_weighted": settings.fsc_weight, "lowpass_A": done.lowpass,
        "mtf": None if settings.mtf is None else str(settings.mtf),
        "mtf_pixel_A": None if settings.mtf is None else settings.mtf_pixel or pair.pixel_size,
        "local_filter": None if done.local is None else done.local.source,
        "verdict": [finding.text for finding in done.verdict],
        "fsc": {name: getattr(pair.curves, name).tolist() for name in CURVES},
        "guinier": _columns(done),
    }  # fmt: skip


def _fit_summary(fit: GuinierFit | None, extent: float) -> dict[str, float] | None:
    """A fitted line as plain JSON values. extent: length of the box in A."""
    return None if fit is None else {
        "bfactor_A2": fit.bfactor, "standard_error_A2": fit.error, "slope_A2": fit.slope, "intercept": fit.intercept,
        "correlation": fit.correlation, "shells": fit.shells, "from_A": extent / fit.first, "to_A": extent / fit.last,
    }  # fmt: skip


def _shown(settings: PostprocessSettings, done: Postprocessed) -> dict[str, Any]:
    """The fields of the page."""
    pair, local = done.pair, done.local
    keys = {"fsc": "unmasked", "fsc_spherical": "spherical", "fsc_masked": "masked", "fsc_randomised": "randomised",
            "fsc_corrected": "corrected"}
    record = {"box": pair.box, "pixel_size": pair.pixel_size} | {
        key: getattr(pair.curves, name).tolist() for key, name in keys.items()
    }
    summary = _summary(settings, done)
    return {
        "record": record, "summary": summary, "verdict": done.verdict,
        "raw": ((pair.half1 + pair.half2) / 2).numpy(), "map": done.map.numpy(),
        "mask": pair.mask.numpy(), "local": None if local is None else local.map.numpy(),
        "theta": None if local is None else local.theta.numpy(),
    }  # fmt: skip


def _print(console: Console, settings: PostprocessSettings, done: Postprocessed, written: list[str]) -> None:
    pair, fit = done.pair, done.guinier.fit
    table = Table(show_header=False)
    for name in ("unmasked", "masked", "corrected"):
        crossed = (pair.resolution(name, threshold) for threshold in (GOLD_STANDARD, 0.5))
        values = (f"< {2 * pair.pixel_size:.2f}" if value is None else f"{value:.2f}" for value in crossed)
        table.add_row(f"FSC {GOLD_STANDARD} / 0.5, {name}", " / ".join(values) + " A")
    table.add_row("B factor applied", f"{done.guinier.bfactor:.1f} A^2" + (" (given)" if settings.bfactor else ""))
    if fit is not None:
        extent = pair.box * pair.pixel_size
        table.add_row("Guinier plot", f"{fit.bfactor:.1f} +- {fit.error:.1f} A^2 from {extent / fit.first:.2f} to "
                                      f"{extent / fit.last:.2f} A, correlation {fit.correlation:.2f}")
        inside = done.guinier.masked_fit
        if inside is not None:
            table.add_row("... within the mask", f"{inside.bfactor:.1f} +- {inside.error:.1f} A^2")
    table.add_row("low-pass", "none" if done.lowpass is None else f"{done.lowpass:.2f} A")
    if done.local is not None:
        table.add_row("local filter", escape(done.local.source))
    table.add_row("written", ", ".join(written))
    console.print(table)
    console.print(escape(f"mask: {pair.mask_name}, {100 * pair.mask_share:.1f} % of the box"), soft_wrap=True)
    terminal.tell_findings(*done.verdict)
    for sentence in [finding.text for finding in done.verdict] or ["nothing unusual about the curves"]:
        console.print(escape(f"- {sentence}"), soft_wrap=True)
    console.print(escape(f"Finished: {settings.out}"), soft_wrap=True)
