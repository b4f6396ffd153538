"""The charts of `halfmap tune-ssri`: what trials are judged by, resolution and truth against one parameter."""

import dataclasses
from collections.abc import Sequence

from halfmap.report.pictures.axes import Axis, Tick, linear_ticks, resolution_ticks, value_axis
from halfmap.report.pictures.charts import Chart, Drawing, Guide, Mark, Series, Stage, draw
from halfmap.report.record_values import Record

SIGNS = {"alpha": "α", "beta": "β", "gamma": "γ", "eps_gradient": "ε′"}
UNITS = {"alpha": "rms or noise", "beta": "rms or noise", "gamma": "mean weight", "eps_gradient": "mask level"}
MEASURES = {"corrected": "within the mask, corrected", "unmasked": "unmasked"}
STYLES = {"corrected": "c2", "unmasked": "c3"}
ROOM = 0.08  # of the axis beside the outermost values, and least distance between two ticks
FEW_TICKS = 3  # a resolution axis with fewer round values than these is ticked linearly


def short(value: float) -> str:
    """The value of a parameter with three significant digits."""
    return f"{value:.3g}"


def _values(sweep: Record) -> list[float]:
    """The values that were tried of the parameter."""
    return [trial["values"][sweep["parameter"]] for trial in sweep["trials"]]


def _axis(sweep: Record) -> Axis:
    """The axis of the values tried, with a tick at each; of neighbours too close for two labels, at the first."""
    name, values = sweep["parameter"], _values(sweep)
    room = ROOM * (values[-1] - values[0])
    ticks: list[float] = []
    for value in values:
        if not ticks or value - ticks[-1] >= ROOM * (values[-1] - values[0]):
            ticks.append(value)
    labels = tuple(Tick(value, short(value)) for value in ticks)
    return Axis(values[0] - room, values[-1] + room, f"{SIGNS[name]} ({UNITS[name]})", "linear", labels)


def _published(sweep: Record, x: Axis) -> list[Stage]:
    """The published range as the second of two stages, because every second one is shaded."""
    low, high = (min(max(x.fraction(value), 0.0), 1.0) for value in sweep["published"])
    return [Stage(0.0, low, ""), Stage(low, high, "published range")] if high > low else []


def _chart(sweep: Record, title: str, y: Axis, series: Sequence[Series]) -> Chart:
    """Curves against the values tried, with the published range shaded."""
    x, values = _axis(sweep), _values(sweep)
    titles = [f"{SIGNS[sweep['parameter']]} = {short(value)}" for value in values]
    return Chart(title, x, y, [x.fraction(value) for value in values], titles, series, stages=_published(sweep, x),
                 dots=True)


def judged_chart(sweep: Record) -> Drawing:
    """What trials are judged by, with its standard error, the level that the choice must reach, and the choice."""
    trials = sweep["trials"]
    judged = [trial["judged"] for trial in trials]
    errors = [[trial["judged"] + way * trial["error"] for trial in trials] for way in (-1, 1)]
    at = _values(sweep).index(sweep["chosen"])
    y = value_axis([judged, *errors], "mean FSC of half maps")
    chart = _chart(sweep, "What trials are judged by", y, [Series("judged by", judged, "c1")])
    return draw(dataclasses.replace(chart, faint=errors, guides=[Guide(sweep["level"], "")],
                                    points=[Mark(sweep["chosen"], judged[at], "taken", "c1")]))


def truth_chart(sweep: Record) -> Drawing | None:
    """Mean FSC with the truth; None if the truth is not known."""
    found = [trial["truth"] for trial in sweep["trials"]]
    if None in found:
        return None
    y = value_axis([found], "mean FSC with the truth")
    return draw(_chart(sweep, "Agreement with the truth", y, [Series("with the truth", found, "c4")]))


def resolution_chart(sweep: Record) -> Drawing | None:
    """Resolution at FSC 0.143; None if half maps agree to Nyquist in all trials."""
    trials = sweep["trials"]
    series = [Series(title, [trial["resolutions_A"][name] for trial in trials], STYLES[name], "Å")
              for name, title in MEASURES.items()]
    found = [1 / d for one in series for d in one.values if d is not None]
    if not found:
        return None
    room = 0.15 * (max(found) - min(found)) or 0.05 * max(found)
    coarsest, finest = 1 / (min(found) - room), 1 / (max(found) + room)
    ticks = resolution_ticks(coarsest, finest, gap=0.15)
    if len(ticks) < FEW_TICKS:
        ticks = linear_ticks(finest, coarsest, 4)
    y = Axis(coarsest, finest, "resolution at FSC 0.143 (Å)", "inverse", ticks)
    taken = trials[_values(sweep).index(sweep["chosen"])]["resolutions_A"]["corrected"]
    points = [Mark(sweep["chosen"], taken, "taken", "c2")] if taken is not None else []
    return draw(dataclasses.replace(_chart(sweep, "Resolution", y, series), points=points))
