"""`halfmap fsc`: all FSC curves of two half maps, their resolutions, and remarks on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from halfmap.errors import InputError
from halfmap.maps.mrc import replaced_atomically, write_map
from halfmap.runtime import terminal
from halfmap.validation.fsc import GOLD_STANDARD, write_fsc_xml
from halfmap.workflows.half_map_pair import HalfMaps, read_half_maps

_CURVES = ("unmasked", "spherical", "masked", "randomised", "corrected")


def run(
    half1: Path, half2: Path, mask: Path | None = None, out: Path | None = None, diameter: float | None = None
) -> dict[str, Any]:
    """Compare two half maps and print a table.

    Writes fsc.xml, fsc.csv, fsc.json and mask.mrc into the folder `out`, if one is given, and returns the content of
    fsc.json. mask and diameter: as in `read_half_maps`. Raises InputError as that function does, and where a file
    cannot be written.
    """
    return told(read_half_maps(half1, half2, mask, diameter), out)


def told(pair: HalfMaps, out: Path | None = None) -> dict[str, Any]:
    """The same for maps that have been read."""
    summary = _summary(pair)
    _print(pair, summary)
    if out is not None:
        _write(pair, summary, out)
    return summary


def _summary(pair: HalfMaps) -> dict[str, Any]:
    """Everything but the maps as plain JSON values. A resolution is null where the curve stays above the threshold."""
    start = pair.curves.from_shell
    return {
        "box": pair.box,
        "pixel_size_A": pair.pixel_size,
        "mask": pair.mask_name,
        "mask_volume_A3": float(pair.mask.sum()) * pair.pixel_size**3,
        "randomised_from_A": pair.box * pair.pixel_size / start if start <= pair.box // 2 else None,
        "resolution_A": {name: {str(t): pair.resolution(name, t) for t in (GOLD_STANDARD, 0.5)} for name in _CURVES},
        "verdict": [finding.text for finding in pair.verdict()],
        "fsc": {name: getattr(pair.curves, name).tolist() for name in _CURVES},
    }


def _print(pair: HalfMaps, summary: dict[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="Resolution of the half maps [A]", title_justify="left")
    table.add_column("FSC")
    table.add_column(f"at {GOLD_STANDARD}", justify="right")
    table.add_column("at 0.5", justify="right")
    nyquist = f"< {2 * pair.pixel_size:.2f}"
    for name in ("unmasked", "spherical", "masked", "corrected"):
        row = summary["resolution_A"][name].values()
        table.add_row(name, *(nyquist if value is None else f"{value:.2f}" for value in row))
    console = terminal.console()
    console.print(table)
    console.print(escape(f"mask: {pair.mask_name}, {100 * pair.mask_share:.1f} % of the box"), soft_wrap=True)
    if summary["randomised_from_A"] is not None:
        console.print(f"phases randomised beyond {summary['randomised_from_A']:.2f} A")
    terminal.tell_findings(*pair.verdict())
    for sentence in summary["verdict"] or ["nothing unusual about the curves"]:
        console.print(escape(f"- {sentence}"), soft_wrap=True)


def _write(pair: HalfMaps, summary: dict[str, Any], out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot make this folder: {error.strerror}; choose another --out") from error
    curves, box, pixel_size = pair.curves, pair.box, pair.pixel_size
    write_fsc_xml(out / "fsc.xml", curves.corrected, box, pixel_size)
    lines = ["shell,frequency_1/A," + ",".join(_CURVES)]
    for s in range(len(curves.unmasked)):
        values = (f"{float(getattr(curves, name)[s]):.6f}" for name in _CURVES)
        lines.append(f"{s},{s / (box * pixel_size):.6f}," + ",".join(values))
    with replaced_atomically(out / "fsc.csv") as stream:
        stream.write(("\n".join(lines) + "\n").encode())
    with replaced_atomically(out / "fsc.json") as stream:
        stream.write((json.dumps(summary, indent=1) + "\n").encode())
    write_map(out / "mask.mrc", pair.mask, pixel_size, placement=pair.placement)
