"""The page of `halfmap inspect`: what is in a file, in words, pictures and curves."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from halfmap.refinement.memory_plan import gigabytes
from halfmap.report.pages import findings
from halfmap.report.pages.findings import Headline, Tile, Warned, duration, figure, grouped
from halfmap.report.pages.page import now, write_page
from halfmap.report.pictures import inspect_charts as charts
from halfmap.report.pictures.png import png_uri
from halfmap.workflows.inspect import Inspection
from halfmap.workflows.inspect_images import GroupSpectra, Looked


@dataclass(frozen=True)
class InspectedPage:
    """The contents of the page. settings, version and command as in `Snapshot`."""

    found: Inspection
    settings: Mapping[str, Any] = field(default_factory=dict)
    version: str = ""
    command: str = ""


def write_inspected_page(folder: Path, shown: InspectedPage) -> Path:
    """Write FOLDER/inspect.html, complete in itself, and return its path."""
    found, looked = shown.found, shown.found.looked
    folder.mkdir(parents=True, exist_ok=True)
    spectra = looked.spectra[: len(charts.STYLES)] if looked is not None else []
    known = [group for group in spectra if group.with_ctf]
    contents = {
        "name": found.name, "shown": shown, "written": now(), "headline": _headline(found),
        "checks": [Warned(findings.sentence(text), "stops a refinement") for text in found.faults]
        + [Warned(findings.sentence(text), "worth a look") for text in found.notes],
        "facts": found.facts, "montage": None if looked is None else _montages(looked),
        "power": charts.power_chart(spectra) if spectra else None,
        "contrast": charts.contrast_chart(known) if known else None,
        "rings": [charts.ring_chart(group, _ring_title(group)) for group in known if group.rings.reach],
        "defocus": None if found.table is None else charts.defocus_chart(found.table),
        "micrographs": None if found.table is None or found.table.micrographs is None
        else charts.micrograph_chart(found.table),
        "memory": _memory(found),
        "time": [(stage, " ".join(duration(seconds))) for stage, seconds in found.seconds.items()],
        "settings": findings.setting_rows(shown.settings),
    }  # fmt: skip
    return write_page(folder, "inspect.html", contents, "inspect.html")


def _headline(found: Inspection) -> Headline:
    facts, tiles = dict(found.facts), []
    if found.table is None:
        hero = Tile(found.kind.capitalize(), facts.get("map", facts.get("stack", "–")).split(",")[0], "", "")
    else:
        hero = Tile("Particles", grouped(len(found.table)), "", facts["particles"].split(" of ", 1)[1])
        largest = found.table.optics[0]
        tiles.append(Tile("Images", f"{largest.box}", "px", f"of {largest.pixel_size:.4g} Å: "
                          f"{largest.box * largest.pixel_size:.0f} Å across"))
        tiles.append(Tile("Half sets", facts["half sets"].split(";")[0], "", "poses: " + facts["poses"].split(";")[0]))
    if found.looked is not None:
        bad = sum(found.looked.faulty.values())
        tiles.append(Tile("Faulty images", grouped(bad), "", f"of {grouped(found.looked.count)} looked at; "
                          f"{found.looked.doubtful} stand out"))
        rings = [g.box * g.pixel_size / g.rings.reach for g in found.looked.spectra if g.with_ctf and g.rings.reach]
        if any(g.with_ctf for g in found.looked.spectra):
            tiles.append(Tile("Thon rings", f"{min(rings):.1f}" if rings else "not seen", "Å" if rings else "",
                              "the finest, where the CTF says they are"))
    if found.plan is not None:
        tiles.append(Tile("Memory", gigabytes(found.plan.peak), "GB",
                          f"for a refinement; {gigabytes(found.plan.available)} GB are available"))
        tiles.append(Tile("Time", *duration(sum(found.seconds.values())), "for a refinement here, estimated"))
    return Headline(hero, tiles)


def _ring_title(group: GroupSpectra) -> str:
    return f"Thon rings of {group.name}: {grouped(group.alike.images)} images near {1e-4 * group.defocus:.2f} µm"


@dataclass(frozen=True)
class Montage:
    """Several images in one picture, a PNG as data URI, and its caption."""

    uri: str
    caption: str


def _montages(looked: Looked) -> list[Montage]:
    side = looked.raw.shape[-1] * looked.pixel_size
    return [
        Montage(png_uri(charts.montage(looked.raw, charts.GREY)),
                f"as they are, background of mean 0 and sd 1; {side:.0f} Å across"),
        Montage(png_uri(charts.montage(looked.low, None)), "the same, low-passed at 20 Å"),
    ]  # fmt: skip


@dataclass(frozen=True)
class MemoryRow:
    """A row of the memory table; size in GB."""

    what: str
    size: str
    remark: str


def _memory(found: Inspection) -> list[MemoryRow]:
    """The memory that a refinement takes, by its parts; empty without a plan."""
    plan = found.plan
    if plan is None:
        return []
    where = {"disk": "in files, one quarter set at a time in memory",
             "host": "in the machine's memory, one at a time on the GPU"}.get(plan.place, "all in memory")
    return [
        MemoryRow("available", gigabytes(plan.available), "what the machine and its limits leave now"),
        MemoryRow("search", gigabytes(plan.expectation), f"the last iteration, {plan.batch} images at once"),
        MemoryRow("solve", gigabytes(plan.solve), f"{plan.demand.regulariser}, padding {plan.demand.padding}"),
        MemoryRow("sums of a quarter set", gigabytes(plan.sums), f"four of them, {where}"),
        MemoryRow("files", figure(plan.scratch / 1e9, 1), "while a run lasts"),
    ]
