"""What looks wrong in a particle table before any image is read: optics, defocus, shifts, and headers of the stacks.

Nothing here stops a refinement. Each finding says what to check.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from halfmap.finding import Finding
from halfmap.imaging.optics import OpticsGroup, names_of
from halfmap.particles.stack import SeenStack
from halfmap.particles.star_text import numbers_of
from halfmap.particles.star_upgrade import SAME_PIXEL, disagrees
from halfmap.particles.table import ParticleTable

HEADER_TOLERANCE = 0.01  # relative difference of pixel sizes: calibration makes a smaller one, binning a larger one
UNSET = (0.0, 1.0)  # pixel sizes that programs write when they know none
PIXELS = (0.2, 10.0)  # plausible pixel sizes in A, least and largest
KILOVOLTS = (60.0, 400.0)  # plausible voltages, least and largest
MOST_CONTRAST, LARGEST_ABERRATION = 0.4, 8.0  # amplitude contrast; spherical aberration in mm
DEFOCUS = (1_000.0, 100_000.0)  # plausible defocus in A, least and largest
FARTHEST = 0.25  # fraction of the box: a particle farther from the middle is not in its image


def table_notes(table: ParticleTable) -> list[Finding]:
    """What is implausible in optics groups, defocus and shifts."""
    notes, unusual = [], dict[str, list[OpticsGroup]]()
    for group in table.optics:
        odd = [said for said, value, (low, high) in (
            (f"pixel size {group.pixel_size:g} A", group.pixel_size, PIXELS),
            (f"voltage {group.voltage:g} kV", group.voltage, KILOVOLTS),
            (f"amplitude contrast {group.amplitude_contrast:g}", group.amplitude_contrast, (0.0, MOST_CONTRAST)),
            (f"spherical aberration {group.spherical_aberration:g} mm", group.spherical_aberration,
             (0.0, LARGEST_ABERRATION)),
        ) if not low <= value <= high]  # fmt: skip
        if odd:
            unusual.setdefault(" and ".join(odd), []).append(group)
    for odd_words, groups in unusual.items():
        text = f"optics group {names_of(groups)}: {odd_words}: unusual; check the optics table"
        notes.append(Finding(f"unusual optics ({names_of(groups)})", text, "optics"))
    other = table.columns.get("rlnPixelSize")
    if other is not None and disagrees(other, table.pixel_size.numpy()):
        first = int(np.argmax(np.abs(numbers_of(other) / table.pixel_size.numpy() - 1) > SAME_PIXEL))
        text = (f"rlnPixelSize says {other[first]} A (row {table.rows[first] + 1}), and the optics, which count, "
                f"say {float(table.pixel_size[first]):.6g} A; correct the one that is wrong")
        notes.append(Finding("pixel sizes disagree in the table", text, "optics"))
    mean = (0.5 * (table.defocus.u + table.defocus.v)).numpy()
    for wrong, what in (
        (mean <= 0, "no underfocus; RELION counts it positive, in A"),
        ((mean > 0) & (mean < DEFOCUS[0]), "less than 0.1 um underfocus; it is counted in A"),
        (mean > DEFOCUS[1], "more than 10 um underfocus; it is counted in A"),
    ):
        if wrong.any():
            row = int(np.argmax(wrong))
            text = (f"{int(wrong.sum())} of {len(table)} particles have {what} (first: row {table.rows[row] + 1}, "
                    f"{mean[row]:g}); check the CTF estimation")
            notes.append(Finding(f"defocus: {what.split(';')[0]}", text, "optics"))
    if table.flat and table.rotations is not None:
        text = ("all tilts are 0: the angles are those of a 2D classification, and a local search would begin from one "
                "view; search all orientations")
        notes.append(Finding("angles of a 2D classification", text, "poses"))
    length = np.array([group.box * group.pixel_size for group in table.optics])[table.optics_index]
    far = table.origins.norm(dim=1).numpy() > FARTHEST * length
    if far.any():
        text = (f"{int(far.sum())} of {len(table)} particles lie more than a quarter of the box off its middle "
                "(rlnOriginXAngst, rlnOriginYAngst are in A); extract them again at their centres")
        notes.append(Finding("particles far off the middle", text, "shifts"))
    return notes


@dataclass
class _Differing:
    """Stacks whose headers give another pixel size (A, that of the first) than their optics groups."""

    stacks: list[Path]
    said: float
    groups: dict[int, OpticsGroup]


def header_notes(table: ParticleTable, seen: Iterable[SeenStack]) -> list[Finding]:
    """Where the headers of stacks give another pixel size than their optics group, one for each pixel size."""
    differing: dict[float, _Differing] = {}
    for stack in seen:
        if stack.header is None:
            continue
        number = int(table.optics_index[stack.row])
        group, said = table.optics[number], stack.header.voxel.x
        if round(said, 3) not in UNSET and abs(said / group.pixel_size - 1) > HEADER_TOLERANCE:
            found = differing.setdefault(group.pixel_size, _Differing([], said, {}))
            found.stacks.append(stack.path)
            found.groups[number] = group
    return [
        Finding(
            f"pixel sizes differ ({names_of(list(found.groups.values()))})",
            f"{len(found.stacks)} stack{'s say' if len(found.stacks) > 1 else ' says'} {found.said:.4g} A a pixel in "
            f"the header (first: {found.stacks[0].name}), optics group {names_of(list(found.groups.values()))} says "
            f"{meant:.4g} A, which is used; check rlnImagePixelSize",
            "optics",
        )
        for meant, found in differing.items()
    ]
