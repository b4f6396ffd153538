"""The Guinier plot of `halfmap postprocess`: ln(amplitude) against 1/d^2, before and after sharpening."""

from halfmap.report.pictures.axes import Axis, Tick, value_axis
from halfmap.report.pictures.charts import Chart, Drawing, Guide, Series, draw, shell_titles
from halfmap.report.record_values import Record

TICKS = (20.0, 15.0, 12.0, 10.0, 8.0, 7.0, 6.0, 5.0, 4.5, 4.0, 3.5, 3.0, 2.8, 2.5, 2.2, 2.0, 1.8, 1.6, 1.5, 1.2, 1.0)
GAP = 0.06  # least distance between ticks, as a fraction of the axis
COARSEST = 20.0  # A: coarser amplitudes are those of the particle's outline and would flatten the plot


def guinier_chart(summary: Record) -> Drawing:
    """ln(amplitude) against 1/d^2 with the fitted line, and ticks labelled by d. summary: of postprocess.json."""
    columns = summary["guinier"]
    x = columns["inverse_square"]
    axis = Axis(0.0, x[-1], "resolution (Å), on a scale of 1/d²", "linear", _square_ticks(x[-1]))
    wanted = [("original", "mean of the half maps", "c1"), ("weighted", _weighted_name(summary), "c2"),
              ("masked", "the same within the mask", "c6"), ("sharpened", "sharpened", "c5"),
              ("line", "fitted line", "c4 dashed")]
    if summary["mtf"]:
        wanted.insert(1, ("mtf_divided", "divided by the MTF", "c3"))
    hidden = sum(value < COARSEST**-2 for value in x)  # the coarsest shells
    found = {key: [None] * hidden + list(columns[key])[hidden:] for key, _, _ in wanted}
    if found["weighted"] == found["original"] or (summary["mtf"] and found["weighted"] == found["mtf_divided"]):
        wanted = [row for row in wanted if row[0] != "weighted"]
    series = [Series(name, found[key], style) for key, name, style in wanted if any(v is not None for v in found[key])]
    extent = summary["box"] * summary["pixel_size_A"]
    guides = []
    corrected = summary["resolution_A"]["corrected"]["0.143"]
    reach = len(x)
    if corrected:
        guides.append(Guide(corrected**-2, f"{corrected:.2f} Å", upright=True))
        reach = round(1.15 * extent / corrected)
    if summary["lowpass_A"] and summary["lowpass_A"] != corrected:
        guides.append(Guide(summary["lowpass_A"] ** -2, f"low-pass {summary['lowpass_A']:.2f} Å", upright=True))
    y = value_axis([s.values[:reach] for s in series], "ln(amplitude)")
    positions = [value / x[-1] for value in x]
    return draw(Chart("Guinier plot", axis, y, positions, shell_titles(extent, len(x)), series, guides=guides,
                      size="tall"))


def _weighted_name(summary: Record) -> str:
    return "FSC-weighted" if summary["fsc_weighted"] else "not weighted"


def _square_ticks(highest: float) -> tuple[Tick, ...]:
    """Ticks at 1/d^2 of round resolutions, up to the highest 1/d^2. Fine ones are chosen before coarse ones."""
    chosen: list[float] = []
    for d in reversed(TICKS):
        if d**-2 <= highest and all(abs(d**-2 - other**-2) >= GAP * highest for other in chosen):
            chosen.append(d)
    return tuple(Tick(d**-2, f"{d:g}") for d in chosen)
