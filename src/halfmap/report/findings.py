"""What the page says in words: headline figures, warnings, checks of the curves, the table of iterations."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from halfmap.report.curves import crossing, shell_resolution
from halfmap.report.snapshot import Record, Snapshot, curve, number, total_seconds

CROSSES = {
    "nothing": "After the common start the half sets never meet; their agreement is independent.",
    "shell spectrum": "One number per shell, the usual gold standard.",
    "local filter": "A filter chosen from both halves: read the half-map FSC with care.",
}
UNITS = {"A": "Å", "deg": "°"}
SEARCHES = {
    "global": "all orientations",
    "local": "around each particle's last pose",
    "final": "last pass, full band",
}


@dataclass(frozen=True)
class Tile:
    """One headline figure."""

    label: str
    value: str
    unit: str = ""
    note: str = ""


@dataclass(frozen=True)
class Warned:
    """A warning and where it comes from."""

    text: str
    where: str


@dataclass(frozen=True)
class Setting:
    """A row of the settings table."""

    name: str
    value: str
    unit: str
    meaning: str


def duration(seconds: float | None) -> tuple[str, str]:
    """A time as (figure, unit): 42 s, 5.3 min, 2 h 14 min."""
    if seconds is None:
        return "–", ""
    if seconds < 100:
        return f"{seconds:.0f}" if seconds >= 10 else f"{seconds:.1f}", "s"
    if seconds < 5400:
        return f"{seconds / 60:.1f}", "min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d}", "min"


def figure(value: float | None, digits: int = 2) -> str:
    """A number with fixed decimals, an en dash where there is none, a true minus sign."""
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "\u2212")


def significant(value: float | None, digits: int = 3) -> str:
    """A number to so many significant digits, without exponents for ordinary sizes."""
    if value is None:
        return "–"
    if value and not 1e-4 <= abs(value) < 1e7:
        return f"{value:.{digits - 1}e}"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:.{places}f}".replace("-", "\u2212")


def grouped(value: float | None) -> str:
    """A count with thin spaces between thousands."""
    return "–" if value is None else f"{int(value):,}".replace(",", "\u2009")


def headline(snapshot: Snapshot) -> tuple[Tile, list[Tile]]:
    """The resolution, and the smaller tiles beside it."""
    last: Record = snapshot.records[-1] if snapshot.records else {}
    corrected = crossing(last, curve(last, "fsc_corrected"), 0.143)
    note = "unmasked half maps, FSC 0.143"
    hero = Tile("Resolution", figure(number(last, "resolution_A")), "Å", note)
    half = number(last, "resolution_05_A")
    box, pixel = number(last, "box"), number(last, "pixel_size")
    geometry = f"{box:.0f} px of {pixel:.4g} Å" if box and pixel else ""
    search, band = str(last.get("search") or "–"), number(last, "band_A")
    reach = f", to {band:.1f} Å" if band else ""
    walls = [total_seconds(record) for record in snapshot.records]
    cpus = [number(record, "cpu_seconds") for record in snapshot.records]
    wall = sum(value or 0.0 for value in walls) if any(walls) else None
    cpu = sum(value or 0.0 for value in cpus) if any(cpus) else None
    wall_text, cpu_text = duration(wall), duration(cpu)
    crosses = str(last.get("crosses") or "not recorded")
    tiles = [
        Tile("At FSC 0.5", figure(half), "Å", "unmasked half maps"),
        Tile("Masked, corrected", figure(corrected), "Å" if corrected else "", "FSC 0.143, phase-randomised"),
        Tile("Particles", grouped(number(last, "particles")), "", geometry),
        Tile("Iterations", grouped(number(last, "iteration")), "", f"{snapshot.symmetry} symmetry"),
        Tile("Search", search, "", SEARCHES.get(search, "") + reach),
        Tile("Wall time", *wall_text, f"CPU time {' '.join(cpu_text).strip()}"),
        Tile("Crosses between halves", crosses, "", CROSSES.get(crosses, "")),
    ]
    return hero, tiles


def warnings(records: Sequence[Record]) -> list[Warned]:
    """Warnings of all iterations, each once with the iterations that raised it, newest first."""
    seen: dict[str, list[int]] = {}
    for i, record in enumerate(records):
        raised = record.get("warnings")
        texts = [raised] if isinstance(raised, str) else raised
        for text in texts if isinstance(texts, list | tuple) else []:
            seen.setdefault(str(text), []).append(int(number(record, "iteration") or i + 1))
    newest = sorted(seen.items(), key=lambda item: -item[1][-1])
    return [Warned(text, _iterations(numbers)) for text, numbers in newest]


def _iterations(numbers: list[int]) -> str:
    if len(numbers) == 1:
        return f"iteration {numbers[0]}"
    if numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"iterations {numbers[0]} to {numbers[-1]}"
    return f"{len(numbers)} iterations, last {numbers[-1]}"


def curve_checks(record: Record) -> list[Warned]:
    """Readings of the FSC curves that an expert would make: tight mask, dip and rise, end of the band."""
    found: list[Warned] = []
    plain, randomised = curve(record, "fsc"), curve(record, "fsc_randomised")
    reported = crossing(record, curve(record, "fsc_corrected"), 0.143)
    box, pixel = number(record, "box"), number(record, "pixel_size")
    if reported and box and pixel and randomised:
        shell = min(round(box * pixel / reported), len(randomised) - 1)
        remaining = randomised[shell]
        if remaining is not None and remaining > 0.05:
            text = f"The mask is tight: the FSC with phases randomised is {remaining:.2f} at {reported:.2f} Å"
            found.append(Warned(text + ". Widen it or soften its edge.", "FSC"))
    rise = _rises_again(plain)
    if rise is not None:
        resolution = shell_resolution(record, rise)
        where = f"near {resolution:.1f} Å" if resolution else f"at shell {rise}"
        text = f"The unmasked FSC falls below 0.143 and rises again {where}"
        found.append(Warned(text + ": look for duplicates, a shared mask or CTF zeros.", "FSC"))
    tail = [value for value in plain[-3:] if value is not None]
    if len(plain) > 8 and tail and min(tail) > 0.143:
        text = "The FSC is above 0.143 up to the last shell: the resolution is limited by the pixel size"
        found.append(Warned(text + " or by duplicates across the half sets.", "FSC"))
    return found


def _rises_again(values: Sequence[float | None]) -> int | None:
    """First of three neighbouring shells above 0.3 beyond a shell below 0.143."""
    below = next((i for i, value in enumerate(values) if i and value is not None and value < 0.143), None)
    if below is None:
        return None
    for i in range(below, len(values) - 2):
        if all((value or 0.0) > 0.3 for value in values[i : i + 3]):
            return i
    return None


TABLE: tuple[tuple[str, str, Callable[[Record], str]], ...] = (
    ("it.", "", lambda r: grouped(number(r, "iteration"))),
    ("search", "", lambda r: str(r.get("search") or "–")),
    ("aligned to", "Å", lambda r: figure(number(r, "band_A"))),
    ("FSC 0.143", "Å", lambda r: figure(number(r, "resolution_A"))),
    ("FSC 0.5", "Å", lambda r: figure(number(r, "resolution_05_A"))),
    ("angle change", "°", lambda r: significant(number(r, "angle_change_deg"))),
    ("shift change", "Å", lambda r: significant(number(r, "shift_change_A"))),
    ("best mode", "", lambda r: figure(number(r, "max_posterior"), 3)),
    ("precision", "°", lambda r: significant(number(r, "precision_deg"))),
    ("gain", "nats", lambda r: significant(number(r, "gain"))),
    ("scale", "", lambda r: significant(number(r, "scale"))),
    ("particles", "", lambda r: grouped(number(r, "particles"))),
    ("wall", "s", lambda r: figure(total_seconds(r), 1)),
    ("CPU", "s", lambda r: figure(number(r, "cpu_seconds"), 1)),
)


def iteration_rows(records: Sequence[Record]) -> list[list[str]]:
    """The table of iterations, newest first."""
    return [[write(record) for _, _, write in TABLE] for record in reversed(records)]


def setting_rows(settings: Mapping[str, Any]) -> list[Setting]:
    """Settings as table rows: plain values, (value, unit, meaning) triples, or tables of either."""
    rows: list[Setting] = []
    for name, entry in settings.items():
        if isinstance(entry, Mapping):
            inner = setting_rows({f"{name}.{key}": value for key, value in entry.items()})
            rows.extend(inner)
        elif isinstance(entry, tuple) and len(entry) == 3:
            value, unit, meaning = entry
            written = UNITS.get(str(unit), str(unit or ""))
            rows.append(Setting(str(name), _written(value), written, str(meaning or "")))
        else:
            rows.append(Setting(str(name), _written(entry), "", ""))
    return rows


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value == "":
        return "–"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(_written(item) for item in value)
    return str(value)


def regulariser_name(settings: Mapping[str, Any]) -> str:
    """Name of the regulariser in the settings, wherever it stands; empty when not recorded."""
    for row in setting_rows(settings):
        if row.name.split(".")[-1] in ("regulariser", "name") and "regulariser" in row.name:
            return row.value
    return ""
