"""What `halfmap ctf-refine` found, in lines for the terminal and as plain values for its record."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from halfmap.ctf_refinement.fit import Fitted
from halfmap.ctf_refinement.parameters import PARAMETERS, Per
from halfmap.ctf_refinement.sensitivity import USUAL_CS, no_coma
from halfmap.imaging.optics import OpticsGroup
from halfmap.particles.table import ParticleTable

SHOWN = 4  # optics groups that have a line of their own
LEAST_GIVEN = 1e-3  # of its error: smaller values are 0 but for rounding


def found_lines(fitted: Sequence[Fitted], optics: Sequence[OpticsGroup]) -> list[str]:
    """What was found of each parameter, how significant it is, and what was applied."""
    lines = []
    for one in fitted:
        counted = "" if one.per is Per.GROUP else f"{_counted(one)}; "
        lines.append(f"{one.name}: {counted}{one.verdict}")
        if one.per is Per.GROUP:
            strongest = one.gain.argsort(descending=True)[:SHOWN].tolist()
            lines += [f"    {_of_group(one, i, optics[int(one.number[i])])}" for i in sorted(strongest)]
            if len(one.number) > SHOWN:
                lines.append(f"    and {len(one.number) - SHOWN:,} more, of less effect: see ctf_refine.json")
        else:
            lines.append(f"    changes {_spread(one)}")
    return lines


def rounded(value: float, error: float) -> str:
    """A value with as many decimals as its error has to the second digit."""
    if not (0 < error < math.inf and math.isfinite(value)):
        return f"{value:.4g}"
    text = f"{value:.{max(0, 1 - math.floor(math.log10(error)))}f}"
    return text if float(text) else text.removeprefix("-")


def as_given(value: float, error: float) -> str:
    """A value of a file beside one that was found with this error: that it is not 0 is seen, however wide the error."""
    text = rounded(value, error)
    return text if float(text) or abs(value) < LEAST_GIVEN * error else f"{value:.2g}"


def record_of(fitted: Sequence[Fitted], table: ParticleTable) -> dict[str, Any]:
    """All values of optics groups and micrographs; of particles, whose values are in particles.star, their spread."""
    return {"parameters": [_record(one, table) for one in fitted]}


def _counted(one: Fitted) -> str:
    count, applied, gain = len(one.number), int(one.applied.sum()), float(one.gain[one.applied].sum())
    units = f"{one.per.value}s{' of half sets' if one.per is Per.MICROGRAPH else ''}"
    won = f", {gain:,.0f} nats won" if applied else ""
    return f"{applied:,} of {count:,} {units} changed{won}"


def _of_group(one: Fitted, row: int, optics: OpticsGroup) -> str:
    """The line of an optics group. A tilt that makes no coma is also told as one that does."""
    text = f"{optics.name}: {_values(one, row)}"
    if one.name != "tilt" or not no_coma(optics):
        return text
    tilt = math.hypot(*(one.before + one.change)[row].tolist()) * optics.spherical_aberration / USUAL_CS
    return f"{text}: the coma of {tilt:.2g} mrad at {USUAL_CS:g} mm"


def _values(one: Fitted, row: int) -> str:
    """The values of an optics group as they were and as they were found, with errors, and what became of them."""
    before, now = one.before[row].tolist(), (one.before + one.change)[row].tolist()
    parts = [f"{name} {as_given(was, error)} -> {rounded(value, error)} +- {rounded(error, error)} {unit}".rstrip()
             for name, was, value, error, unit in zip(one.components, before, now, one.error[row].tolist(), one.units,
                                                      strict=True)]
    done = "applied" if bool(one.applied[row]) else "left as it was"
    return f"{', '.join(parts)}; {done} ({float(one.gain[row]):.1f} nats)"


def _spread(one: Fitted) -> str:
    """How far values moved, by component."""
    change, error = one.change[one.applied].numpy(), one.error.numpy()
    if not len(change):
        return f"are within their errors of {_joined(one, np.nanmedian(error, axis=0))}"
    most = np.abs(change).max(axis=0)
    return (f"of {_joined(one, one.change_rms)} (root mean square), at most {_joined(one, most)}; "
            f"errors of {_joined(one, np.nanmedian(error, axis=0))}")


def _joined(one: Fitted, values: Sequence[float] | np.ndarray) -> str:
    named = len(one.components) > 1
    return ", ".join(f"{f'{name} ' if named else ''}{value:.3g} {unit}".rstrip()
                     for name, value, unit in zip(one.components, values, one.units, strict=True))


def _record(one: Fitted, table: ParticleTable) -> dict[str, Any]:
    applied = one.applied.numpy()
    told: dict[str, Any] = {
        "name": one.name, "meaning": PARAMETERS[one.name].meaning, "one_value_per": one.per.value,
        "components": list(one.components), "units": list(one.units), "verdict": one.verdict, "of": len(applied),
        "applied": int(applied.sum()), "gain_nats": float(one.gain[one.applied].sum()),
        "change_rms": one.change_rms,
        "error_median": _numbers(np.nanmedian(one.error.numpy(), axis=0)) if len(applied) else [],
    }  # fmt: skip
    if one.per is Per.PARTICLE:
        return told
    names = _unit_names(one, table)
    told["values"] = [
        {one.per.value.replace(" ", "_"): names[i], **({"half_set": half + 1} if half >= 0 else {}),
         "before": _numbers(one.before[i]), "change": _numbers(one.change[i]), "error": _numbers(one.error[i]),
         "gain_nats": float(one.gain[i]), "applied": bool(applied[i])}
        for i, half in enumerate(one.half.tolist())
    ]
    return told


def _numbers(values: ArrayLike) -> list[float | None]:
    """Values [p] as JSON has them: None where there is nothing to say, as of an error where nothing was fitted."""
    return [value if math.isfinite(value) else None for value in np.asarray(values, dtype=np.float64).tolist()]


def _unit_names(one: Fitted, table: ParticleTable) -> list[str]:
    """The name of what each value [n] is for."""
    if one.per is Per.GROUP:
        return [table.optics[number].name for number in one.number.tolist()]
    column, known = table.columns.get("rlnMicrographName"), dict[int, str]()
    for row, number in zip(*np.unique(table.micrograph, return_index=True)[::-1], strict=True):
        known[int(number)] = str(column[int(row)]) if column is not None else str(number)
    return [known.get(number, str(number)) for number in one.number.tolist()]
