"""What pages say in words: figures, headlines, warnings, checks of the curves, tables of iterations and settings."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from halfmap.finding import Finding
from halfmap.refinement.told import findings_in, spells
from halfmap.report.pages.snapshot import Snapshot
from halfmap.report.record_values import Record, crossing, curve, number, plain_value, total_seconds

# What a reader should know about things that cross between half sets, by a word that the record uses for them.
CROSSES = {
    "joined": "Joined shells agree because they are joined; only finer ones are a test.",
    "improved with all images": "Agreement up to the start's resolution is no test: that map holds all images.",
    "a leak": "Images of one half set decided about the map of the other: the half-map FSC is no test here.",
    "declares)": "What its regulariser carries across is what its package declares; images of noise test that.",
    "local filter": "A filter chosen from both halves: read the half-map FSC with care.",
}
GOLD_STANDARD = "Figures by shell and an outline, no detail: the usual gold standard."
UNITS = {"A": "Å", "deg": "°"}
SEARCHES = {
    "burn-in": "all orientations at the start's resolution",
    "global": "all orientations",
    "local": "around each particle's last pose",
    "final": "map to the last shell",
}


@dataclass(frozen=True)
class Tile:
    """One figure with its label and a note."""

    label: str
    value: str
    unit: str = ""
    note: str = ""


@dataclass(frozen=True)
class Headline:
    """The figures at the top of a page: the main one, in large print, and those beside it."""

    hero: Tile
    tiles: list[Tile]


@dataclass(frozen=True)
class Warned:
    """A warning, and the part of the results that it is about."""

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
    """A time (seconds) as figure and unit: 42 s, 5.3 min, 2 h 14 min."""
    if seconds is None:
        return "–", ""
    if seconds < 100:
        return f"{seconds:.0f}" if seconds >= 10 else f"{seconds:.1f}", "s"
    if seconds < 5400:
        return f"{seconds / 60:.1f}", "min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d}", "min"


def figure(value: float | None, digits: int = 2) -> str:
    """A number with fixed decimals and a true minus sign; an en dash for None."""
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "\u2212")


def significant(value: float | None, digits: int = 3) -> str:
    """A number with this many significant digits, without exponent unless it is very large or small."""
    if value is None:
        return "–"
    if value and not 1e-4 <= abs(value) < 1e7:
        return f"{value:.{digits - 1}e}"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:.{places}f}".replace("-", "\u2212")


def grouped(value: float | None) -> str:
    """A count with thin spaces between thousands; an en dash for None."""
    return "–" if value is None else f"{int(value):,}".replace(",", "\u2009")


def headline(snapshot: Snapshot) -> Headline:
    """The headline of a refinement: resolution, and what it took to get there."""
    last: Record = snapshot.records[-1] if snapshot.records else {}
    final = last.get("search") == "final"
    corrected = crossing(last, curve(last, "fsc_corrected"), 0.143) if final else None
    note = "unmasked half maps, FSC 0.143"
    hero = Tile("Resolution", figure(number(last, "resolution_A")), "Å", note)
    half = number(last, "resolution_05_A")
    box, pixel = number(last, "box"), number(last, "pixel_size")
    geometry = f"{box:.0f} px of {pixel:.4g} Å" if box and pixel else ""
    search, band = str(last.get("search") or "–"), number(last, "band_A")
    reach = f", aligned to {band:.1f} Å" if band else ""
    walls = [total_seconds(record) for record in snapshot.records]
    cpus = [number(record, "cpu_seconds") for record in snapshot.records]
    wall = sum(value or 0.0 for value in walls) if any(walls) else None
    cpu = sum(value or 0.0 for value in cpus) if any(cpus) else None
    wall_text, cpu_text = duration(wall), duration(cpu)
    crosses = str(last.get("crosses") or "not recorded")
    tiles = [
        Tile("At FSC 0.5", figure(half), "Å", "unmasked half maps"),
        Tile("Masked, corrected", figure(corrected), "Å" if corrected else "", _corrected_note(final, corrected)),
        Tile("Particles", grouped(number(last, "particles")), "", geometry),
        Tile("Iterations", grouped(number(last, "iteration")), "", f"{snapshot.symmetry} symmetry"),
        Tile("Stage", search, "", SEARCHES.get(search, "") + reach),
        Tile("Wall time", *wall_text, f"CPU time {' '.join(cpu_text).strip()}"),
        Tile("Crosses between halves", crosses, "", _crosses_note(crosses)),
    ]
    return Headline(hero, tiles)


def asked_for_particles(snapshot: Snapshot) -> bool:
    """Whether the run asked of images if they hold a particle. Where it did not, records say 1 of all of them."""
    off = plain_value(snapshot.settings, "null_hypothesis") in (False, "no")
    return not off and plain_value(snapshot.settings, "search") != "fixed"


def _corrected_note(final: bool, corrected: float | None) -> str:
    if not final:
        return "measured in the final pass"
    return "FSC 0.143, phase-randomised" if corrected else "never below FSC 0.143: limited by the pixel size"


def _crosses_note(crosses: str) -> str:
    notes = [note for word, note in CROSSES.items() if word in crosses]
    return " ".join(notes) if notes else "" if crosses == "not recorded" else GOLD_STANDARD


def warnings(records: Sequence[Record]) -> list[Warned]:
    """The warnings of a run, each one once: those that stand, then those that are over, with their iterations."""
    return [Warned(sentence(spell.finding.text), spell.finding.about if spell.stands else spell.when())
            for spell in spells(records) if spell.finding.level == "warning"]


def notes_on_curves(record: Record) -> list[str]:
    """The notes of an iteration on its FSC curves, shown beside them."""
    return readings([finding for finding in findings_in(record) if finding.about == "FSC"])


def other_notes(record: Record) -> list[str]:
    """The notes of an iteration on everything else."""
    return [sentence(text) for text in readings([one for one in findings_in(record) if one.about != "FSC"])]


def verdict_checks(found: Sequence[Finding]) -> list[Warned]:
    """The warnings among findings, for the top of a page."""
    return [Warned(sentence(finding.text), finding.about) for finding in found if finding.level == "warning"]


def readings(found: Sequence[Finding]) -> list[str]:
    """The notes among findings, which are shown beside what they are about."""
    return [finding.text for finding in found if finding.level == "note"]


def sentence(text: str) -> str:
    """A finding with a capital and a full stop."""
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


@dataclass(frozen=True)
class Column:
    """A column of the table of iterations; write: gives the text of its cell for a record."""

    label: str
    unit: str
    write: Callable[[Record], str]


TABLE = (
    Column("it.", "", lambda r: grouped(number(r, "iteration")) + (" !" if _warned(r) else "")),
    Column("stage", "", lambda r: str(r.get("search") or "–")),
    Column("aligned to", "Å", lambda r: figure(number(r, "band_A"))),
    Column("FSC 0.143", "Å", lambda r: figure(number(r, "resolution_A"))),
    Column("FSC 0.5", "Å", lambda r: figure(number(r, "resolution_05_A"))),
    Column("angle change", "°", lambda r: significant(number(r, "angle_change_deg"))),
    Column("shift change", "Å", lambda r: significant(number(r, "shift_change_A"))),
    Column("jumped", "%", lambda r: _percent(number(r, "jumped"))),
    Column("best mode", "", lambda r: figure(number(r, "max_posterior"), 3)),
    Column("precision", "°", lambda r: significant(number(r, "precision_deg"))),
    Column("gain", "nats", lambda r: significant(number(r, "gain"))),
    Column("scale", "", lambda r: significant(number(r, "scale"))),
    Column("wall", "s", lambda r: figure(total_seconds(r), 1)),
    Column("CPU", "s", lambda r: figure(number(r, "cpu_seconds"), 1)),
)


def _warned(record: Record) -> bool:
    return any(finding.level == "warning" for finding in findings_in(record))


def _percent(share: float | None) -> str:
    return figure(None if share is None else 100 * share, 1)


def iteration_rows(records: Sequence[Record]) -> list[list[str]]:
    """Cells of the table of iterations by the columns of TABLE, newest iteration first."""
    return [[column.write(record) for column in TABLE] for record in reversed(records)]


def setting_rows(settings: Mapping[str, Any]) -> list[Setting]:
    """Rows of the table of settings. A setting is a plain value, (value, unit, meaning), or a table of these."""
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
    """Name of the regulariser, wherever it stands in the settings; empty if it is not recorded."""
    for row in setting_rows(settings):
        if row.name.split(".")[-1] in ("regulariser", "name") and "regulariser" in row.name:
            return row.value
    return ""
