"""`halfmap regularise`: filter two finished half maps with a regulariser, outside a refinement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from halfmap.errors import InputError
from halfmap.maps.mrc import replaced_atomically, write_map
from halfmap.regularisation.protocol import MapPair, Regulariser, Solution
from halfmap.runtime import terminal
from halfmap.settings.commands import to_toml
from halfmap.settings.regularise import FilterOptions, RegulariseSettings
from halfmap.settings.regularisers import regulariser_named, regulariser_options
from halfmap.validation.fsc import GOLD_STANDARD, write_fsc_xml
from halfmap.workflows.half_map_pair import HalfMaps, read_half_maps, read_mask

# Said of a local filter, because both half maps were used to choose it.
FROM_BOTH = "used on two finished half maps the filter is made from both: a picture, not a reference for refinement"
PERCENTILES = (5, 50, 95)

Report = Callable[..., Any]


@dataclass(frozen=True)
class Filtered:
    """Two half maps with mask and curves, the method, and what it made of them."""

    pair: HalfMaps
    method: Regulariser
    solution: Solution


def regularise(settings: RegulariseSettings, report: Report | None = None) -> Filtered:
    """Filter two half maps and their average, and write them with mask, curves and settings into settings.out.

    Writes map.mrc (the filtered average), half1.mrc and half2.mrc (the filtered half maps), every array of the solution
    (theta.mrc), mask.mrc, fsc.xml and settings.toml. report: writes the page, and is called with the page's fields.
    Raises InputError where maps or masks are not on one grid, a mask is not a mask, or a file cannot be read or
    written.
    """
    assert settings.half2 is not None  # named by validated_pair
    console = terminal.console()
    with console.status("reading and comparing the half maps"):
        pair = read_half_maps(settings.half1, settings.half2, settings.mask, settings.diameter)
    with console.status(f"filtering ({settings.regulariser})"):
        found = filtered(pair, settings, settings.half1)
    method, solution = found.method, found.solution
    written = _write(settings, pair, solution)
    if report is not None:
        theta = solution.arrays.get("theta")
        report(
            record=pair.record(), crosses=method.crosses, note=FROM_BOTH if solution.arrays else "",
            verdict=pair.verdict(), raw=((pair.half1 + pair.half2) / 2).numpy(), map=solution.joined.numpy(),
            mask=pair.mask.numpy(), theta=None if theta is None else theta.numpy(),
        )  # fmt: skip
        written.append("report.html")
    _print(console, pair, solution, settings.out, written)
    return found


def filtered(pair: HalfMaps, settings: FilterOptions, name: Path) -> Filtered:
    """Filter two half maps with the chosen method; name: what messages call the first of them.

    A mask among its options is read here: a regulariser takes tensors, not files. Raises InputError as `read_mask`.
    """
    options = regulariser_options(settings)
    read = {option: read_mask(value, pair.like, name).data for option, value in options.items()
            if isinstance(value, Path)}
    method = regulariser_named(settings.regulariser, **(options | read))
    maps = MapPair(pair.half1, pair.half2, pair.curves, pair.pixel_size)
    return Filtered(pair, method, method.filter_pair(maps, pair.mask))


def _write(settings: RegulariseSettings, pair: HalfMaps, solution: Solution) -> list[str]:
    """Write everything but the report. Returns the names of the files."""
    try:
        settings.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {settings.out}: cannot make this folder: {error.strerror}; choose another") from error
    with replaced_atomically(settings.out / "settings.toml") as stream:
        stream.write(to_toml(settings).encode())
    named = {"map": solution.joined, "half1": solution.maps[0], "half2": solution.maps[1], **solution.arrays}
    for name, values in (named | {"mask": pair.mask}).items():
        write_map(settings.out / f"{name}.mrc", values, pair.pixel_size, placement=pair.placement)
    write_fsc_xml(settings.out / "fsc.xml", pair.curves.corrected, pair.box, pair.pixel_size)
    return [*(f"{name}.mrc" for name in named), "mask.mrc", "fsc.xml", "settings.toml"]


def _print(console: Console, pair: HalfMaps, solution: Solution, out: Path, written: list[str]) -> None:
    table = Table(show_header=False)
    for name in ("unmasked", "corrected"):
        crossed = (pair.resolution(name, threshold) for threshold in (GOLD_STANDARD, 0.5))
        values = (f"< {2 * pair.pixel_size:.2f}" if value is None else f"{value:.2f}" for value in crossed)
        table.add_row(f"FSC {GOLD_STANDARD} / 0.5, {name}", " / ".join(values) + " A")
    inside = pair.mask > 0.5
    if "theta" in solution.arrays and bool(inside.any()):
        found = np.percentile(solution.arrays["theta"][inside].double().numpy(), PERCENTILES)
        shares, cutoffs = (" / ".join(words) for words in (map(str, PERCENTILES), (f"{value:.2f}" for value in found)))
        table.add_row(f"local cut-off, {shares} %", f"{cutoffs} A inside the mask")
    table.add_row("written", ", ".join(written))
    console.print(table)
    console.print(escape(f"mask: {pair.mask_name}, {100 * pair.mask_share:.1f} % of the box"), soft_wrap=True)
    terminal.tell_findings(*pair.verdict())
    for finding in pair.verdict():
        console.print(escape(f"- {finding.text}"), soft_wrap=True)
    console.print(escape(f"Finished: {out}"), soft_wrap=True)
