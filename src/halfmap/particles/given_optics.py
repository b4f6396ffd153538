"""Optics that a user gives for a particle file that lacks them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from halfmap.errors import InputError
from halfmap.particles.cryosparc_file import CsDataset
from halfmap.particles.star_text import StarTable
from halfmap.particles.table import ParticleTable

SAME = 1e-3  # relative: what a file says and what is given may be rounded differently


@dataclass(frozen=True)
class _Value:
    """A value of the optics: how an option, RELION and cryoSPARC call it, its unit, and the field of an OpticsGroup."""

    option: str
    label: str
    field: str
    unit: str
    name: str


VALUES = (
    _Value("--voltage", "rlnVoltage", "ctf/accel_kv", " kV", "voltage"),
    _Value("--cs", "rlnSphericalAberration", "ctf/cs_mm", " mm", "spherical_aberration"),
    _Value("--amplitude-contrast", "rlnAmplitudeContrast", "ctf/amp_contrast", "", "amplitude_contrast"),
    _Value("--pixel-size", "rlnImagePixelSize", "blob/psize_A", " A", "pixel_size"),
)
# What gives the pixel size in RELION 3.0, one of these sets.
OLD_PIXEL = ({"rlnPixelSize"}, {"rlnDetectorPixelSize", "rlnMagnification"})


@dataclass(frozen=True)
class GivenOptics:
    """Values by option (kV, mm, A), for all particles of a file; inverted: whether its images are to be multiplied by
    -1 when they are read."""

    values: dict[str, float] = field(default_factory=dict)
    inverted: bool = False

    def completed(self, table: StarTable) -> StarTable:
        """A STAR table with columns added for the values that it lacks.

        table: of the optics, or of the particles in the layout of RELION 3.0.
        """
        columns = dict(table.columns)
        for value in VALUES:
            label = value.label
            if label == "rlnImagePixelSize" and table.name != "optics":
                label = "rlnPixelSize"
                if any(labels <= set(columns) for labels in OLD_PIXEL):
                    continue
            if value.option in self.values and label not in columns:
                columns[label] = [f"{self.values[value.option]:.9g}"] * len(table)
        return StarTable(table.source, table.name, columns)

    def completed_dataset(self, dataset: CsDataset) -> CsDataset:
        """A cryoSPARC dataset with fields added for the values that it lacks."""
        added = {value.field: np.full(len(dataset), self.values[value.option]) for value in VALUES
                 if value.option in self.values and value.field not in dataset}
        return replace(dataset, fields=dataset.fields | added)

    def applied(self, table: ParticleTable) -> ParticleTable:
        """The table as read from such a file, with the sign of its images.

        Images that are multiplied by -1 are the same as a CTF of the opposite sign, which a file written later keeps.
        Raises InputError where the file says something else than what was given.
        """
        for value in VALUES:
            if value.option not in self.values:
                continue
            given = self.values[value.option]
            for group in table.optics:
                held = getattr(group, value.name)
                if not math.isclose(held, given, rel_tol=SAME):
                    raise InputError(f"{value.option} {given:g}: {table.source} says {held:g}{value.unit} (optics "
                                     f"group '{group.name}'); leave the option out, or correct the file")
        if not self.inverted:
            return table
        return replace(table, defocus=replace(table.defocus, scale=-table.defocus.scale))


NONE_GIVEN = GivenOptics()


def remedy(*lacking: str) -> str:
    """How values that a file lacks can be given, for their labels or fields."""
    options = [value.option for value in VALUES if {value.label, value.field} & set(lacking)]
    return f"the value{'s' if len(options) > 1 else ''} with {' and '.join(options)}"
