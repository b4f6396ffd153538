"""What a user can choose for ``halfmap postprocess``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from halfmap.errors import InputError
from halfmap.options import check_declared, to_command
from halfmap.settings.checks import check_new_folder, check_readable, check_two_maps
from halfmap.settings.half_maps import HalfMapSettings, half_map_paths


@dataclass(frozen=True)
class PostprocessSettings(HalfMapSettings):
    """Settings of ``halfmap postprocess``."""

    mask: Path | None = field(default=None, metadata={
        "help": "solvent mask, 1 inside and 0 outside", "short": "mask.mrc",
        "none": "that of RUN, or made from the maps", "aliases": ("--solvent_mask",)})
    auto_mask: bool = field(default=False, metadata={
        "help": "make the mask from the maps although RUN has one", "aliases": ("--auto_mask",)})
    bfactor: float | None = field(default=None, metadata={
        "help": "B factor to apply; a negative one sharpens", "unit": "A^2", "aliases": ("--adhoc_bfac",),
        "none": "from the Guinier plot"})
    fit_from: float = field(default=10.0, metadata={
        "help": "coarsest resolution of the line through the Guinier plot", "unit": "A", "above": 0,
        "aliases": ("--autob_lowres",)})
    fit_to: float | None = field(default=None, metadata={
        "help": "finest resolution of that line; 0 for Nyquist, which is relion_postprocess's default", "unit": "A",
        "at_least": 0, "aliases": ("--autob_highres",), "none": "the resolution of the maps"})
    mtf: Path | None = field(default=None, metadata={
        "help": "MTF of the detector, a STAR table, to divide the map by", "short": "mtf.star", "none": "no division"})
    mtf_pixel: float | None = field(default=None, metadata={
        "help": "pixel size of the micrographs before any binning, to which the MTF belongs", "unit": "A", "above": 0,
        "aliases": ("--mtf_angpix",), "none": "the map's"})
    fsc_weight: bool = field(default=True, metadata={
        "help": "weight the map by sqrt(2 FSC / (1 + FSC))"})
    lowpass: float | None = field(default=None, metadata={
        "help": "resolution to filter the sharpened map to; 0 for no filter", "unit": "A", "at_least": 0,
        "aliases": ("--low_pass",), "none": "the resolution of the maps"})
    local: bool = field(default=False, metadata={
        "help": "also write a sharpened map filtered to its local cut-off: RUN's theta.mrc, or cross-validated"})
    out: Path | None = field(default=None, metadata={
        "help": "folder for the results; made if absent", "short": "folder", "aliases": ("--o",),
        "none": "postprocess in RUN, or beside --half1"})


def validated_postprocess(settings: PostprocessSettings) -> PostprocessSettings:
    """Check the settings as far as is possible without reading data, and make their paths absolute.

    Half maps, mask and output folder that follow from a run or a name are filled in. Raises InputError for the first
    choice that cannot work, and where results would overwrite other files.
    """
    check_declared(settings)
    paths = half_map_paths(settings, "postprocess", own_mask=not settings.auto_mask)
    if settings.auto_mask and "mask" in paths:
        raise InputError(f"--mask {paths['mask']}: is not used with --auto-mask; give one of them")
    for name in ("half1", "half2", "mask", "mtf"):
        if name in paths:
            check_readable(name, paths[name])
    check_two_maps(paths)
    if settings.mtf_pixel is not None and settings.mtf is None:
        raise InputError(f"--mtf-pixel {settings.mtf_pixel:g}: needs --mtf")
    if settings.fit_to is not None and settings.fit_to >= settings.fit_from:
        raise InputError(f"--fit-to {settings.fit_to:g}: must be finer than --fit-from {settings.fit_from:g} A")
    check_new_folder(paths["out"])
    return dataclasses.replace(settings, **paths)


def postprocess_command(settings: PostprocessSettings) -> str:
    """The command with settings from `validated_postprocess`. Half maps that follow from RUN are left out."""
    asked = settings if settings.run is None else dataclasses.replace(settings, half1=None, half2=None)
    return to_command(asked, "halfmap postprocess")
