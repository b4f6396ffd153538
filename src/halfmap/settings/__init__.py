"""What a user can choose: the command line, ``settings.toml`` and the report all come from these fields."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from halfmap import __version__
from halfmap.errors import InputError
from halfmap.options import build, check_declared, read_toml, table, to_command
from halfmap.options import to_toml as options_to_toml
from halfmap.settings.regularisers import RegulariserOptions, check_options

__all__ = ["RefineSettings", "RegulariseSettings", "SimulateSettings", "absolute_paths", "check_new_folder",
           "check_readable", "command_line", "from_toml", "other_half", "table", "to_toml", "validated",
           "validated_pair"]


@dataclass(frozen=True)
class RefineSettings(RegulariserOptions):
    """Settings of ``halfmap refine``."""

    particles: Path = field(metadata={
        "help": "particle images: a RELION STAR file (3.0 or 3.1 layout), or a cryoSPARC .cs or .csg file",
        "short": "particles.star",
        "positional": True, "aliases": ("--i",)})
    map: Path = field(metadata={
        "help": "initial reference map", "short": "map.mrc", "aliases": ("--ref",)})
    diameter: float = field(metadata={
        "help": "diameter of the circle around the particle, micelle or nanodisc included", "unit": "A",
        "above": 0, "aliases": ("--particle_diameter",)})
    out: Path = field(metadata={
        "help": "folder for the results; made if absent", "short": "folder", "aliases": ("--o",)})
    symmetry: str = field(default="C1", metadata={
        "help": "point group, RELION's orientation: C1 Cn Dn T O I1 I2 I3 I4", "short": "group",
        "aliases": ("--sym",)})
    mask: Path | None = field(default=None, metadata={
        "help": "solvent mask, 1 inside and 0 outside", "short": "mask.mrc",
        "none": "drawn around the map in every iteration", "aliases": ("--solvent_mask",)})
    ini_high: float = field(default=30.0, metadata={
        "help": "low-pass filter of the initial map", "unit": "A", "above": 0, "aliases": ("--ini_high",)})
    threads: int = field(default=0, metadata={
        "help": "CPU threads of a process, 0 for all cores", "at_least": 0, "aliases": ("--j",)})
    device: str = field(default="auto", metadata={
        "help": "where to compute; auto takes a GPU if there is one", "choices": ("auto", "cpu", "cuda")})
    data_dir: Path | None = field(default=None, metadata={
        "help": "folder that the image paths in the particle file start from", "short": "folder",
        "none": "found from the particle file", "advanced": True})
    passthrough: Path | None = field(default=None, metadata={
        "help": "passthrough file of a cryoSPARC job, with the fields that the .cs file lacks", "short": "file.cs",
        "none": "not needed, or named by the .csg file", "advanced": True})
    strip_prefix: str | None = field(default=None, metadata={
        "help": "left out where an image path in a cryoSPARC file begins with it", "short": "path",
        "none": "nothing", "advanced": True})
    max_resolution: float | None = field(default=None, metadata={
        "help": "never align on detail finer than this", "unit": "A", "above": 0, "none": "no limit",
        "advanced": True})
    max_iterations: int = field(default=40, metadata={
        "help": "stop after this many iterations even if not converged", "at_least": 1, "advanced": True})
    search: str = field(default="auto", metadata={
        "help": "orientation search: auto goes from global to local, fixed keeps the poses of the STAR file",
        "choices": ("auto", "global", "local", "fixed"), "advanced": True})
    local_from: float | None = field(default=None, metadata={
        "help": "resolution at which auto turns from global to local search", "unit": "A", "above": 0,
        "none": "automatic", "advanced": True})
    offset_range: float | None = field(default=None, metadata={
        "help": "half-width of the search for the particle's centre", "unit": "A", "above": 0,
        "none": "automatic", "advanced": True})
    angular_step: float | None = field(default=None, metadata={
        "help": "spacing of the global search's orientation grid", "unit": "deg", "above": 0,
        "none": "from resolution and diameter", "advanced": True})
    posterior: str = field(default="sigma", metadata={
        "help": "poses an image enters the map with: its best one, its modes, or sigma points around them",
        "choices": ("best", "sigma", "modes"), "advanced": True})
    scale: str = field(default="group", metadata={
        "help": "what shares one intensity scale factor", "choices": ("group", "particle", "none"),
        "bare": "group", "advanced": True})
    flatten_solvent: bool = field(default=True, metadata={
        "help": "clear the reference outside the mask before images are aligned to it",
        "aliases": ("--flatten_solvent",), "advanced": True})
    split_by: str = field(default="particle", metadata={
        "help": "what is kept in one half set when the STAR file has no half sets",
        "choices": ("particle", "micrograph"), "advanced": True})
    resplit: bool = field(default=False, metadata={
        "help": "draw new half sets even if the STAR file has them", "advanced": True})
    join_halves: float | None = field(default=None, metadata={
        "help": "share the half maps' low resolution up to this limit, so that they keep one orientation",
        "unit": "A", "above": 0, "none": "off: half sets stay apart", "aliases": ("--low_resol_join_halves",),
        "advanced": True})
    padding: int = field(default=2, metadata={
        "help": "padding of the reference before its Fourier transform; 1 needs an eighth of the memory",
        "choices": (1, 2), "aliases": ("--pad",), "advanced": True})
    insertion: str = field(default="trilinear", metadata={
        "help": "how a coefficient of an image enters the map's transform: shared by the eight grid points around it, "
                "or by 27 with the Gaussian weights of OPUS-SSRI",
        "choices": ("trilinear", "gaussian"), "advanced": True})
    batch: int = field(default=0, metadata={
        "help": "images worked on at once, 0 for automatic", "at_least": 0, "advanced": True})
    max_memory: float | None = field(default=None, metadata={
        "help": "memory that the run may take", "unit": "GB", "above": 0,
        "none": "what the machine and its limits leave", "advanced": True})
    sums: str = field(default="auto", metadata={
        "help": "where the sums of the map's transform lie: all in memory, or in files with one quarter set in memory "
                "at a time; auto takes files where memory does not suffice",
        "choices": ("auto", "memory", "disk"), "advanced": True})
    scratch: Path | None = field(default=None, metadata={
        "help": "folder for sums on disk, best on a fast disk of this machine", "short": "folder",
        "none": "checkpoint in the run's folder", "advanced": True})
    seed: int = field(default=0, metadata={
        "help": "seed of every random choice", "at_least": 0, "aliases": ("--random_seed",),
        "advanced": True})
    keep_iterations: bool = field(default=False, metadata={
        "help": "keep the maps and poses of every iteration", "advanced": True})
    checkpoint_minutes: float = field(default=10.0, metadata={
        "help": "within an iteration, save what `halfmap resume` needs this often", "unit": "minutes", "above": 0,
        "advanced": True})


@dataclass(frozen=True)
class RegulariseSettings(RegulariserOptions):
    """Settings of ``halfmap regularise``."""

    REFINES: ClassVar[bool] = False
    half1: Path = field(metadata={
        "help": "raw half map, unfiltered and unmasked", "short": "half1.mrc", "aliases": ("--i",)})
    out: Path = field(metadata={
        "help": "folder for the results; made if absent", "short": "folder", "aliases": ("--o",)})
    half2: Path | None = field(default=None, metadata={
        "help": "the other raw half map", "short": "half2.mrc", "aliases": ("--i2",),
        "none": "the name of --half1 with half2 in place of half1"})
    mask: Path | None = field(default=None, metadata={
        "help": "solvent mask, 1 inside and 0 outside", "short": "mask.mrc",
        "none": "made from the maps", "aliases": ("--solvent_mask",)})
    diameter: float | None = field(default=None, metadata={
        "help": "diameter of the spherical mask, which also bounds the one made from the maps", "unit": "A", "above": 0,
        "none": "0.85 of the box", "aliases": ("--particle_diameter",)})


@dataclass(frozen=True)
class SimulateSettings:
    """Settings of ``halfmap simulate``."""

    model: Path = field(metadata={
        "help": "atomic model (mmCIF or PDB, also gzipped)", "short": "model.cif", "positional": True})
    out: Path = field(metadata={
        "help": "folder for the images and the truth; made if absent", "short": "folder"})
    n: int = field(default=2000, metadata={"help": "number of particles", "at_least": 1})
    box: int = field(default=96, metadata={"help": "side of an image", "unit": "px", "at_least": 16})
    apix: float = field(default=2.0, metadata={"help": "pixel size", "unit": "A", "above": 0})
    snr: float = field(default=0.1, metadata={
        "help": "variance of the signal over that of the noise, over the whole box", "above": 0})
    micelle: bool = field(default=False, metadata={
        "help": "put a detergent belt around the protein, its axis along z, drawn anew for every particle"})
    hinge: str | None = field(default=None, metadata={
        "help": "let a chain swing about its contact with the rest, by this standard deviation",
        "none": "rigid", "short": "chain:degrees"})
    symmetry: str = field(default="C1", metadata={
        "help": "point group that the model must have, RELION's orientation; noted with the images",
        "short": "group"})
    assembly: bool = field(default=False, metadata={
        "help": "build the model's biological assembly 1", "advanced": True})
    micelle_radius: float | None = field(default=None, metadata={
        "help": "radius of the belt", "unit": "A", "above": 0, "none": "membrane domain and 18 A",
        "advanced": True})
    micelle_thickness: float = field(default=40.0, metadata={
        "help": "thickness of the belt across the membrane", "unit": "A", "above": 0, "advanced": True})
    micelle_centre: float = field(default=0.0, metadata={
        "help": "height z of the membrane's middle in the model's coordinates", "unit": "A",
        "advanced": True})
    micelle_contrast: float = field(default=0.6, metadata={
        "help": "mean density of the belt over the protein's mean density", "at_least": 0, "advanced": True})
    bfactor: float = field(default=40.0, metadata={
        "help": "B factor added to every atom's own", "unit": "A^2", "advanced": True})
    defocus_min: float = field(default=0.8, metadata={
        "help": "least underfocus", "unit": "um", "advanced": True})
    defocus_max: float = field(default=2.2, metadata={
        "help": "largest underfocus", "unit": "um", "advanced": True})
    astigmatism: float = field(default=250.0, metadata={
        "help": "mean difference between a micrograph's two defocus values", "unit": "A", "at_least": 0,
        "advanced": True})
    voltage: float = field(default=300.0, metadata={
        "help": "acceleration voltage", "unit": "kV", "advanced": True})
    cs: float = field(default=2.7, metadata={"help": "spherical aberration", "unit": "mm", "advanced": True})
    amplitude_contrast: float = field(default=0.1, metadata={"help": "amplitude contrast", "advanced": True})
    micrographs: int = field(default=40, metadata={
        "help": "micrographs that the particles come from; each has its defocus", "at_least": 1,
        "advanced": True})
    offset: float = field(default=3.0, metadata={
        "help": "standard deviation of the particle's place along x and y", "unit": "A", "at_least": 0,
        "advanced": True})
    preferred_orientation: float = field(default=0.0, metadata={
        "help": "strength k of preferred views, density exp(k cos^2 tilt): along z, or across it if negative",
        "advanced": True})
    junk: float = field(default=0.0, metadata={
        "help": "fraction of images of nothing (half of them) or of a broken particle", "at_least": 0,
        "advanced": True})
    noise_slope: float = field(default=0.0, metadata={
        "help": "exponent p of noise with the power spectrum 1 / frequency^p; 0 is white", "at_least": 0,
        "advanced": True})
    noise_only: bool = field(default=False, metadata={
        "help": "leave the particles out of the images", "advanced": True})
    initial_resolution: float = field(default=30.0, metadata={
        "help": "resolution of the initial map written beside the images", "unit": "A", "above": 0,
        "advanced": True})
    dtype: str = field(default="float32", metadata={
        "help": "values in the stack: noise has standard deviation 1, or 20 as int8",
        "choices": ("float32", "float16", "int8"), "advanced": True})
    seed: int = field(default=0, metadata={
        "help": "seed of every random choice", "at_least": 0, "advanced": True})


def validated(settings: RefineSettings) -> RefineSettings:
    """The same settings with absolute paths, once all that can be known without reading data is in order.

    Raises InputError at the first choice that cannot work.
    """
    check_declared(settings)
    check_options(settings)
    if settings.max_resolution and settings.max_resolution >= settings.ini_high:
        raise InputError(f"--max-resolution {settings.max_resolution:g}: must be finer than --ini-high "
                         f"{settings.ini_high:g} A, the resolution of the start")
    paths = absolute_paths(settings)
    check_cryosparc_only(settings.particles, settings.passthrough, settings.strip_prefix)
    for name in ("particles", "map", "mask", "cutoff_mask", "passthrough"):
        if name in paths:
            check_readable(name.replace("_", "-"), paths[name])
    for name in ("data_dir", "scratch"):
        if name in paths and not paths[name].is_dir():
            raise InputError(f"--{name.replace('_', '-')} {paths[name]}: no such folder")
    _check_new_run(paths["out"])
    return dataclasses.replace(settings, **paths)


def validated_pair(settings: RegulariseSettings) -> RegulariseSettings:
    """The same settings with absolute paths and the second half map named, in order as far as can be known unread.

    Raises InputError at the first choice that cannot work, and where results would take the place of other files.
    """
    check_declared(settings)
    check_options(settings)
    paths = absolute_paths(settings)
    if "half2" not in paths:
        paths["half2"] = other_half(paths["half1"])
    for name, path in paths.items():
        if name != "out":
            check_readable(name.replace("_", "-"), path)
    check_two_maps(paths)
    check_new_folder(paths["out"])
    return dataclasses.replace(settings, **paths)


def other_half(half1: Path) -> Path:
    """The file of half set 2 beside that of half set 1, as relion_postprocess finds it."""
    if "half1" not in half1.name:
        raise InputError(f"--half1 {half1}: no half1 in the file's name to find the other by; give it with --half2")
    return half1.with_name(half1.name.replace("half1", "half2"))


def check_two_maps(paths: dict[str, Path]) -> None:
    """Raise InputError where half1 and half2 are one file."""
    if paths["half1"].samefile(paths["half2"]):
        raise InputError(f"--half2 {paths['half2']}: is the same map as --half1; give the one of the other half set")


def check_cryosparc_only(particles: Path, passthrough: Path | None, strip_prefix: str | None) -> None:
    """Raise InputError where an option that only a cryoSPARC file knows goes with another."""
    if particles.suffix.lower() not in (".cs", ".csg"):
        for name, value in (("passthrough", passthrough), ("strip-prefix", strip_prefix)):
            if value is not None:
                raise InputError(f"--{name} {value}: belongs to a cryoSPARC .cs or .csg file, and the particles are "
                                 f"{particles.name}; leave it out")


def absolute_paths(settings: object) -> dict[str, Any]:
    """The paths among the settings, by name."""
    values = {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}  # type: ignore[arg-type]
    return {name: value.expanduser().absolute() for name, value in values.items() if isinstance(value, Path)}


def check_readable(name: str, path: Path) -> None:
    """Raise InputError, naming the option, for a path that is not a file to read."""
    said = str(path) if name == "particles" else f"--{name} {path}"
    if path.is_dir():
        raise InputError(f"{said}: is a folder, not a file")
    if not path.exists():
        raise InputError(f"{said}: no such file")
    if not os.access(path, os.R_OK):
        raise InputError(f"{said}: no permission to read it")


def _check_new_run(out: Path) -> None:
    """A run never writes over another, and finds out before the work that it cannot write."""
    if (out / "checkpoint" / "state").exists():
        raise InputError(f"--out {out}: holds a run that was stopped; go on with `halfmap resume {out}`, or name "
                         "another folder")
    if (out / "settings.toml").exists():
        raise InputError(f"--out {out}: holds a run already; name another folder or remove this one")
    there = out
    while not there.exists():
        there = there.parent
    if not there.is_dir():
        raise InputError(f"--out {out}: {there} is a file, not a folder")
    if not os.access(there, os.W_OK):
        raise InputError(f"--out {out}: no permission to write in {there}")


def check_new_folder(out: Path) -> None:
    """The same where maps go in and come out: half maps often lie under the very names that are written."""
    _check_new_run(out)
    taken = sorted(path.name for path in out.glob("*") if path.suffix in (".mrc", ".xml", ".html"))
    if taken:
        raise InputError(f"--out {out}: holds {taken[0]}; name a new folder")


def to_toml(settings: RefineSettings | RegulariseSettings) -> str:
    """The text of ``settings.toml``: complete, so that the command with ``--settings`` repeats the run."""
    command = _command(settings)
    return options_to_toml(settings, f"Settings of {command}, version {__version__}. Repeat it with\n"
                                     f"    {command} --settings settings.toml --out NEW_FOLDER")


def command_line(settings: RefineSettings | RegulariseSettings) -> str:
    """The command with these settings, however they were given."""
    return to_command(settings, _command(settings))


def _command(settings: RefineSettings | RegulariseSettings) -> str:
    return "halfmap refine" if isinstance(settings, RefineSettings) else "halfmap regularise"


def from_toml(path: Path) -> RefineSettings:
    """The settings in a ``settings.toml``; raises InputError as `read_toml` and `build` do."""
    return build(RefineSettings, read_toml(RefineSettings, path))
