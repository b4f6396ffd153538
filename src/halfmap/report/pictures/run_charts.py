"""The charts of a refinement: Fourier shell correlation, progress by iteration, noise spectra, wall time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from halfmap.report.pictures.axes import Axis, Tick, linear_ticks, log_ticks, resolution_ticks, value_axis
from halfmap.report.pictures.charts import Abscissa, Chart, Drawing, Guide, Mark, Series, Stage, draw, draw_histogram
from halfmap.report.record_values import (
    Record,
    clean_values,
    curve,
    number,
    seconds_by_stage,
    shell_resolution,
    total_seconds,
)

# Field of the record, name of the curve, style.
FSC_CURVES = (
    ("fsc", "unmasked", "c1"),
    ("fsc_spherical", "spherical mask", "c2"),
    ("fsc_masked", "masked", "c3"),
    ("fsc_randomised", "masked, phases randomised", "c4 dashed"),
    ("fsc_corrected", "masked, corrected", "c5"),
)
EARLIER_CURVES = 24  # iterations whose unmasked curves are drawn behind that of the latest
NAMED_GROUPS = 8  # optics groups with a curve of their own; further ones are faint
LEAST_BAR = 0.5  # images at the foot of a logarithmic bar, so that one image is seen
SHARE_STEADY = 0.005  # a share that changes by less from one iteration to another tells nothing
STAGE_STYLES = {"read": "c1", "search": "c3", "insert": "c2", "solve": "c5", "other": "c8"}


@dataclass(frozen=True)
class ProgressChart:
    """The chart of one field of the records by iteration; drawing: None if no record has the field."""

    title: str
    field: str
    drawing: Drawing | None


def _shell_abscissa(record: Record, shells: int) -> Abscissa:
    """A resolution axis from shell 0 to Nyquist, and every shell on it."""
    box, pixel = number(record, "box"), number(record, "pixel_size")
    nyquist_shell = box / 2 if box else max(shells - 1, 1)
    finest = 2 * pixel if pixel else 1.0 / nyquist_shell
    ticks = resolution_ticks(math.inf, finest) if pixel else ()
    axis = Axis(math.inf, finest, "resolution (Å)" if pixel else "shell", "inverse", ticks)
    titles = []
    for shell in range(shells):
        resolution = shell_resolution(record, shell)
        titles.append(f"{resolution:.2f} Å · shell {shell}" if resolution else f"shell {shell}")
    return Abscissa(axis, [shell / nyquist_shell for shell in range(shells)], titles)


def fsc_chart(records: Sequence[Record]) -> Drawing | None:
    """All five curves of the latest iteration, with the unmasked curves of earlier ones faintly behind.

    None if the latest record has no curve.
    """
    record = records[-1]
    found = [(name, style, _measured(record, key)) for key, name, style in FSC_CURVES]
    series = [Series(name, values, style) for name, style, values in found if values]
    if not series:
        return None
    shells = max(len(s.values) for s in series)
    x = _shell_abscissa(record, shells)
    earlier = [_measured(old, "fsc") for old in records[:-1] if number(old, "box") == number(record, "box")]
    points = []
    for key, level in (("resolution_A", 0.143), ("resolution_05_A", 0.5)):
        resolution = number(record, key)
        if resolution and number(record, "pixel_size"):
            points.append(Mark(resolution, level, f"{resolution:.2f} Å", "c1"))
    guides = [Guide(0.143, "0.143"), Guide(0.5, "0.5")]
    band = number(record, "band_A")
    if band and number(record, "pixel_size"):
        guides.append(Guide(band, f"aligned to {band:.1f} Å", upright=True))
    low = min((v for s in series for v in s.values if v is not None), default=0.0)
    lowest = min(-0.05, max(low - 0.03, -0.3))
    y = Axis(lowest, 1.03, "Fourier shell correlation", "linear", linear_ticks(0, 1, 5))
    chart = Chart(
        "Fourier shell correlation between half maps", x.axis, y, x.positions, x.titles, series,
        faint=[values for values in earlier[-EARLIER_CURVES:] if values], guides=guides, points=points,
        size="tall",
    )  # fmt: skip
    return draw(chart)


def _measured(record: Record, key: str) -> list[float | None]:
    """The curve up to the last shell that was back-projected. Beyond it the half maps hold no data."""
    values, limit = curve(record, key), number(record, "inserted_A")
    box, pixel = number(record, "box"), number(record, "pixel_size")
    return values[: round(box * pixel / limit) + 1] if limit and box and pixel else values


def iteration_abscissa(records: Sequence[Record]) -> Abscissa:
    numbers = [_iteration(record, i) for i, record in enumerate(records)]
    lo, hi = numbers[0] - 0.5, numbers[-1] + 0.5
    step = max(1, math.ceil((hi - lo) / 10))
    ticks = tuple(Tick(float(n), str(n)) for n in numbers if n % step == 0 or len(numbers) == 1)
    axis = Axis(lo, hi, "iteration", "linear", ticks)
    searches = [str(record.get("search") or "?") for record in records]
    titles = [f"iteration {n} · {search}" for n, search in zip(numbers, searches, strict=True)]
    return Abscissa(axis, [axis.fraction(n) for n in numbers], titles)


def _iteration(record: Record, index: int) -> int:
    """The number of the iteration; if it was not recorded, the place of the record, counted from 1."""
    value = number(record, "iteration")
    return index + 1 if value is None else int(value)


def _stages(records: Sequence[Record]) -> list[Stage]:
    """Stretches of iterations with the same kind of search."""
    stages: list[Stage] = []
    for i, record in enumerate(records):
        name, start, end = str(record.get("search") or ""), i / len(records), (i + 1) / len(records)
        if stages and stages[-1].name == name:
            stages[-1] = Stage(stages[-1].start, end, name)
        else:
            stages.append(Stage(start, end, name))
    return stages


def resolution_chart(records: Sequence[Record]) -> Drawing | None:
    """Resolution at both thresholds and the alignment limit by iteration, finer at the top.

    None if no record has any of them.
    """
    wanted = (
        ("resolution_A", "FSC 0.143", "c1"),
        ("resolution_05_A", "FSC 0.5", "c2"),
        ("band_A", "used for alignment", "c8 dashed"),
    )
    series = [Series(name, [number(r, key) for r in records], style, "Å") for key, name, style in wanted]
    series = [s for s in series if any(s.values)]
    values = [value for s in series for value in s.values if value]
    if not values:
        return None
    coarse, fine = 1 / max(values), 1 / min(values)
    margin = 0.12 * (fine - coarse) or 0.2 * fine
    lo, hi = 1 / max(coarse - margin, 0.6 * coarse), 1 / (fine + margin)
    x = iteration_abscissa(records)
    y = Axis(lo, hi, "resolution (Å)", "inverse", resolution_ticks(lo, hi, 0.13))
    chart = Chart(
        "Resolution", x.axis, y, x.positions, x.titles, series, stages=_stages(records), dots=True, size="tall"
    )
    return draw(chart)


def _progress_chart(
    records: Sequence[Record], key: str, title: str, unit: str, style: str, log: bool = False
) -> Drawing | None:
    values = [number(record, key) for record in records]
    if all(value is None for value in values):
        return None
    x = iteration_abscissa(records)
    # A logarithmic axis cannot hold 0. An iteration in which nothing moved leaves a gap in the line.
    shown = [None if log and value is not None and value <= 0 else value for value in values]
    y = value_axis([shown], {"°": "degrees", "": title}.get(unit, unit), log=log)
    series = [Series(title, shown, style, unit if unit != "nats per particle" else "nats")]
    chart = Chart(title, x.axis, y, x.positions, x.titles, series, stages=_stages(records), dots=len(records) <= 60)
    return draw(chart)


def pose_charts(records: Sequence[Record]) -> list[ProgressChart]:
    """How much poses changed, the medians on logarithmic axes."""
    return [
        ProgressChart("Angle change, median", "angle_change_deg",
                      _progress_chart(records, "angle_change_deg", "angle change", "°", "c1", log=True)),
        ProgressChart("Shift change, median", "shift_change_A",
                      _progress_chart(records, "shift_change_A", "shift change", "Å", "c2", log=True)),
        ProgressChart("Jumped to another pose", "jumped",
                      _progress_chart(records, "jumped", "share of particles", "", "c4")),
    ]  # fmt: skip


def posterior_charts(records: Sequence[Record]) -> list[ProgressChart]:
    """What the posterior says about the poses: weight of the best mode, precision, gain over the null."""
    wanted = (
        ("Weight of the best mode, mean", "max_posterior", "weight", "", "c3"),
        ("Pose precision, median", "precision_deg", "precision", "°", "c5"),
        ("Gain over the null, mean", "gain", "gain", "nats per particle", "c2"),
    )
    return [
        ProgressChart(title, key, _progress_chart(records, key, name, unit, style))
        for title, key, name, unit, style in wanted
    ]


@dataclass(frozen=True)
class ParticleCharts:
    """Whether images hold a particle: how many of all images probably hold none, by the latest record.

    probabilities: histogram; share: of the images that hold one, by iteration, None where it hardly changes.
    """

    none: int
    images: int
    probabilities: Drawing
    share: Drawing | None


def particle_charts(records: Sequence[Record]) -> ParticleCharts | None:
    """Charts of the probability that an image holds a particle. None if the latest record does not have it."""
    none = number(records[-1], "no_particle")
    counts = [int(count) for count in curve(records[-1], "particle_probability") if count is not None and count >= 0]
    if none is None or not any(counts):
        return None
    shares = [share for share in (number(record, "particle_share") for record in records) if share is not None]
    steady = not shares or max(shares) - min(shares) < SHARE_STEADY
    return ParticleCharts(
        int(none), sum(counts), _probability_chart(counts),
        None if steady else _progress_chart(records, "particle_share", "share of images", "", "c3"),
    )  # fmt: skip


def _probability_chart(counts: Sequence[int]) -> Drawing:
    """A histogram of images [bin] by their probability, on a logarithmic axis: the few without a particle matter."""
    bins = len(counts)
    x = Axis(0.0, 1.0, "probability that the image holds a particle", "linear", linear_ticks(0, 1, 5))
    top = 2.0 * max(counts)
    y = Axis(LEAST_BAR, top, "images", "log", log_ticks(1.0, top))
    titles = [f"{i / bins:.2f} to {(i + 1) / bins:.2f}" for i in range(bins)]
    # A logarithmic axis cannot show 0.
    series = Series("images", [count or None for count in counts], "c3")
    chart = Chart("Probability of a particle", x, y, [(i + 0.5) / bins for i in range(bins)], titles, [series],
                  guides=[Guide(0.5, "as likely none", upright=True)])
    return draw_histogram(chart, 0.9 / bins)


def noise_chart(record: Record) -> tuple[Drawing | None, int]:
    """Noise power by shell of each optics group, and the number of groups. Groups past the eighth are faint.

    None and 0 if the record has no spectra.
    """
    spectra = record.get("sigma2")
    if not isinstance(spectra, Sequence) or isinstance(spectra, str):
        return None, 0
    groups = [clean_values(group) for group in spectra]
    # Shell 0 and shells beyond the band hold no estimate but zero, which a logarithmic axis cannot show.
    groups = [[None if value is None or value <= 0 else value for value in group] for group in groups]
    groups = [[None, *group[1:]] for group in groups if any(group)]
    if not groups:
        return None, 0
    recorded = record.get("sigma2_name")
    names = [str(name) for name in recorded] if isinstance(recorded, Sequence) else []
    names += [f"group {i + 1}" for i in range(len(names), len(groups))]
    x = _shell_abscissa(record, max(len(group) for group in groups))
    named = zip(names, groups[:NAMED_GROUPS], strict=False)
    series = [Series(name, values, f"c{i + 1}") for i, (name, values) in enumerate(named)]
    y = value_axis(groups, "noise power σ² (square image units)", log=True)
    chart = Chart("Noise power", x.axis, y, x.positions, x.titles, series, faint=groups[NAMED_GROUPS:])
    return draw(chart), len(groups)


def time_chart(records: Sequence[Record]) -> Drawing | None:
    """Wall time by iteration, stacked by stage. What the stages leave of the total is `other`.

    None if no record has times.
    """
    stages = [seconds_by_stage(record) for record in records]
    totals = [total_seconds(record) for record in records]
    for times, total in zip(stages, totals, strict=True):
        rest = (total or 0.0) - sum(times.values())
        if rest > 0.005 * (total or 0.0):
            times["other"] = times.get("other", 0.0) + rest
    names = [name for name in STAGE_STYLES if any(name in times for times in stages)]
    names += sorted({name for times in stages for name in times} - set(names))
    if not names:
        return None
    x = iteration_abscissa(records)
    spare = iter(("c4", "c6", "c7") * len(names))
    styles = {name: STAGE_STYLES.get(name) or next(spare) for name in names}
    series = [Series(name, [times.get(name) for times in stages], styles[name], "s") for name in names]
    highest = max(sum(times.values()) for times in stages) or 1.0
    y = Axis(0.0, 1.08 * highest, "wall time (s)", "linear", linear_ticks(0, 1.08 * highest, 4))
    return draw(Chart("Wall time", x.axis, y, x.positions, x.titles, series, stacked=True))
