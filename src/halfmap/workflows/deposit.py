"""`halfmap deposit`: write a finished refinement as the files of an EMDB entry, on one grid with one pixel size."""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from halfmap import __version__
from halfmap.errors import InputError
from halfmap.maps.levels import CUBIC_ANGSTROM_PER_DALTON, contour_level
from halfmap.maps.mrc import MapFile, read_map, replaced_atomically, write_map
from halfmap.particles.star import read_star
from halfmap.refinement.outputs import made_folder
from halfmap.runtime import terminal
from halfmap.runtime.log import read_header
from halfmap.settings.deposit import MAPS, DepositSettings, deposit_command
from halfmap.settings.regularisers import RegulariserOptions
from halfmap.validation.fsc import GOLD_STANDARD, write_fsc_xml
from halfmap.workflows.fixed_poses import finished_records
from halfmap.workflows.half_map_pair import HalfMaps, read_half_maps, require_same_grid

RECALIBRATION = 0.15  # largest relative change of the pixel size that a calibration explains
SAME = 0.002  # largest difference in any shell that rounding makes between two FSC curves of the same half maps
CURVES = ("unmasked", "masked", "corrected")
WHAT = {
    "map.mrc": "main map", "half_map_1.mrc": "half map 1: unfiltered, unmasked, unsharpened",
    "half_map_2.mrc": "half map 2: unfiltered, unmasked, unsharpened", "mask.mrc": "mask of the FSC",
    "additional_map.mrc": "additional map: regularised, unsharpened, unmasked",
}  # fmt: skip

Pictures = Callable[..., list[Path]]


@dataclass(frozen=True)
class Entry:
    """The content of an entry's files.

    pair: half maps with mask and curves, at the deposited pixel size; main, additional: the main map and the
    regularised map [z,y,x], the latter None where it is the main map; sharpening: the content of postprocess.json for a
    sharpened map, else empty; level: contour level; stretch: deposited pixel size over that of the run.
    """

    pair: HalfMaps
    main: Tensor
    additional: Tensor | None
    sharpening: dict[str, Any]
    level: float
    stretch: float

    @property
    def maps(self) -> dict[str, Tensor]:
        """All maps by file name."""
        named = {"map.mrc": self.main, "half_map_1.mrc": self.pair.half1, "half_map_2.mrc": self.pair.half2,
                 "mask.mrc": self.pair.mask}  # fmt: skip
        return named | ({} if self.additional is None else {"additional_map.mrc": self.additional})


def deposit(settings: DepositSettings, pictures: Pictures | None = None) -> Entry:
    """Write the files of an EMDB entry into settings.out.

    Writes map.mrc, half_map_1.mrc, half_map_2.mrc, mask.mrc, additional_map.mrc (the unsharpened map, if the main map
    is sharpened), fsc.xml, deposition.json and deposition.txt. settings: as `validated_deposit` returns them. pictures:
    writes an image and a script, and is called with volume, mask, level and the files to hide. Raises InputError where
    the run has not finished, its files do not belong together, or one cannot be read or written.
    """
    console = terminal.console()
    with console.status("reading and comparing the maps"):
        record = finished_records(settings.run)[-1]
        entry = _entry(settings)
    summary = _summary(settings, entry, record)
    out = made_folder(settings.out)
    for name, values in entry.maps.items():
        kind = f", {settings.map}" if name == "map.mrc" else ""
        write_map(out / name, values, entry.pair.pixel_size, f"Halfmap {__version__}: {WHAT[name]}{kind}")
    write_fsc_xml(out / "fsc.xml", entry.pair.curves.corrected, entry.pair.box, entry.pair.pixel_size)
    if pictures is not None:
        hidden = [out / name for name in entry.maps if name != "map.mrc"]
        pictures(volume=entry.main.numpy(), mask=entry.pair.mask.numpy(), level=entry.level, hidden=hidden)
    for name, text in (("deposition.json", json.dumps(summary, indent=1)), ("deposition.txt", _text(summary))):
        with replaced_atomically(out / name) as stream:
            stream.write((text + "\n").encode())
    _print(console, out, summary)
    return entry


def _entry(settings: DepositSettings) -> Entry:
    """Read the maps of the run and check that they belong together."""
    run, name = settings.run, MAPS[str(settings.map)]
    sharp = name.startswith("postprocess/")
    sharpening = _read_json(run / "postprocess" / "postprocess.json") if sharp else {}
    mask = run / ("postprocess/mask.mrc" if sharp else "mask.mrc")
    half1, half2 = run / "half1_unfil.mrc", run / "half2_unfil.mrc"
    pair = read_half_maps(half1, half2, mask, None)
    main, regularised = (_on_grid(run / file, pair.like, half1) for file in (name, "map.mrc"))
    if sharp:
        _check_origin(run / name, sharpening, pair)
    stretch = 1.0 if settings.pixel_size is None else settings.pixel_size / pair.pixel_size
    if abs(stretch - 1) > RECALIBRATION:
        raise InputError(f"--pixel-size {settings.pixel_size:g}: the run has {pair.pixel_size:.5g} A, and no "
                         f"calibration changes it by {100 * abs(stretch - 1):.0f} %; check the value")
    level = settings.level if settings.level is not None else contour_level(main, pair.mask)
    if not float(main.min()) < level < float(main.max()):
        raise InputError(f"--level {level:g}: the map has values from {float(main.min()):.4g} to "
                         f"{float(main.max()):.4g}; give one between")
    pair = dataclasses.replace(pair, pixel_size=pair.pixel_size * stretch)
    return Entry(pair, main, regularised if sharp else None, sharpening, level, stretch)


def _on_grid(path: Path, like: MapFile, like_path: Path) -> Tensor:
    read = read_map(path)
    require_same_grid(like, read, like_path, path)
    return read.data


def _check_origin(path: Path, sharpening: dict[str, Any], pair: HalfMaps) -> None:
    """Raise InputError where a sharpened map was made from other half maps, as when the run went on after it."""
    before = torch.tensor((sharpening.get("fsc") or {}).get("unmasked") or [], dtype=torch.float64)
    now = pair.curves.unmasked.double()
    if before.shape != now.shape or float((before - now).abs().max()) > SAME:
        raise InputError(f"{path}: was not made from the half maps beside it, by postprocess.json; remove the folder "
                         "postprocess and run halfmap postprocess again")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); run halfmap postprocess again") from None
    if not isinstance(found, dict):
        raise InputError(f"{path}: not a summary; run halfmap postprocess again")
    return found


def _summary(settings: DepositSettings, entry: Entry, record: dict[str, Any]) -> dict[str, Any]:
    """What the deposition form asks for, as plain JSON values. record: of the last iteration."""
    pair = entry.pair
    header = read_header(settings.run / "log.txt")
    choices = _choices(settings.run / "settings.toml")
    enclosed = float((entry.main >= entry.level).sum()) * pair.pixel_size**3
    regulariser, local = str(choices.get("regulariser", "uniform")), settings.map == "local"
    return {
        "command": deposit_command(settings),
        "files": {name: WHAT[name] for name in entry.maps} | {"fsc.xml": "FSC within the mask, corrected"},
        "method": "SINGLE PARTICLE ANALYSIS",
        "particles": record.get("particles"), "symmetry": str(choices.get("symmetry", "C1")),
        "box": pair.box, "pixel_size_A": pair.pixel_size,
        "pixel_size_recalibrated_from_A": None if entry.stretch == 1 else pair.pixel_size / entry.stretch,
        "resolution_A": pair.resolution("corrected", GOLD_STANDARD), "resolution_method": "FSC 0.143 CUT-OFF",
        "resolutions_A": {name: {str(t): pair.resolution(name, t) for t in (GOLD_STANDARD, 0.5)} for name in CURVES},
        "map": settings.map, "contour_level": entry.level, "enclosed_A3": enclosed,
        "enclosed_kDa": enclosed / CUBIC_ANGSTROM_PER_DALTON / 1000,
        # Frequencies are divided by the stretch: lengths grow in proportion to it, B factors to its square.
        "bfactor_A2": _scaled(entry.sharpening.get("bfactor_A2"), entry.stretch**2),
        "lowpass_A": None if local else _scaled(entry.sharpening.get("lowpass_A"), entry.stretch),
        "local_filter": entry.sharpening.get("local_filter") if local else None,
        "optics": _optics(settings.run / "particles.star"),
        "half_sets": {"crosses": record.get("crosses"), "seed": choices.get("seed")},
        "regulariser": regulariser,
        "software": [{"name": "Halfmap", "version": header.version or "not recorded", "for": use}
                     for use in ("FINAL EULER ASSIGNMENT", "RECONSTRUCTION")],
        "citation": _paper(regulariser), "refinement": header.command,
    }  # fmt: skip


def _scaled(value: Any, factor: float) -> float | None:
    return float(value) * factor if isinstance(value, int | float) else None


def _choices(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a TOML file ({error}); mend the file") from None


def _optics(path: Path) -> list[dict[str, Any]]:
    """Voltage, Cs and amplitude contrast of each optics group; empty where the run has no particles."""
    if not path.is_file():
        return []
    return [{"name": group.name, "voltage_kV": group.voltage, "cs_mm": group.spherical_aberration,
             "amplitude_contrast": group.amplitude_contrast} for group in read_star(path).optics]  # fmt: skip


def _paper(regulariser: str) -> str:
    """The paper of a regulariser, as the setting that chooses one names it; empty where it names none."""
    (choice,) = (field for field in fields(RegulariserOptions) if field.name == "regulariser")
    found = re.search(rf"(?:^|; ){re.escape(regulariser)}: ([^;]+)", str(choice.metadata.get("reference", "")))
    return found[1] if found else ""


def _angstrom(value: float | None) -> str:
    return "beyond Nyquist" if value is None else f"{value:.2f} A"


def _lines(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """The summary in the terms of the deposition form: (name, value) of each line."""
    lines = [
        ("method", summary["method"].lower()), ("resolution", f"{_angstrom(summary['resolution_A'])} "
         "(FSC 0.143, half maps within the mask, corrected by phase randomisation)"),
        ("unmasked", f"{_angstrom(summary['resolutions_A']['unmasked'][str(GOLD_STANDARD)])} (FSC 0.143)"),
        ("particles", str(summary["particles"])), ("symmetry", summary["symmetry"]),
        ("box", f"{summary['box']} voxels of {summary['pixel_size_A']:.5g} A"),
        ("main map", str(summary["map"])),
        ("contour level", f"{summary['contour_level']:.4g}, which encloses {summary['enclosed_A3']:.0f} A^3, as "
                          f"{summary['enclosed_kDa']:.0f} kDa of protein"),
    ]  # fmt: skip
    if summary["pixel_size_recalibrated_from_A"]:
        lines.append(("pixel size before", f"{summary['pixel_size_recalibrated_from_A']:.5g} A"))
    if summary["bfactor_A2"] is not None:
        lines.append(("B factor applied", f"{summary['bfactor_A2']:.1f} A^2"))
    lines += [("software", f"Halfmap {summary['software'][0]['version']}, {summary['regulariser']} regularisation")]
    if summary["citation"]:
        lines.append(("to cite", summary["citation"]))
    return lines


def _text(summary: dict[str, Any]) -> str:
    rows = _lines(summary)
    optics = [f"{group['name']}: {group['voltage_kV']:g} kV, Cs {group['cs_mm']:g} mm, amplitude contrast "
              f"{group['amplitude_contrast']:g}" for group in summary["optics"]]  # fmt: skip
    rows += [("optics", line) for line in optics] + [("half sets share", str(summary["half_sets"]["crosses"]))]
    rows += [(name, what) for name, what in summary["files"].items()] + [("command", str(summary["refinement"]))]
    return "\n".join(f"{name:<20}{value}" for name, value in rows)


def _print(console: Console, out: Path, summary: dict[str, Any]) -> None:
    table = Table(show_header=False)
    for name, value in _lines(summary):
        table.add_row(name, escape(value))
    table.add_row("written", ", ".join(sorted(path.name for path in out.iterdir())))
    console.print(table)
    console.print(escape(f"Finished: {out}"), soft_wrap=True)
