"""What a user can choose for ``halfmap classify``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field, fields
from pathlib import Path

from halfmap.errors import InputError
from halfmap.options import check_declared
from halfmap.settings.checks import (
    absolute_paths,
    check_diameter,
    check_new_run,
    check_one_state,
    check_readable,
    particle_file,
)
from halfmap.settings.given_optics import ImageOptions
from halfmap.settings.particle_files import DETERMINISTIC
from halfmap.settings.particle_sets import check_refinement
from halfmap.settings.refine import RefineSettings, from_toml
from halfmap.settings.regularisers import OF_OTHERS, PlugOptions, check_chosen, option_files

MOST_CLASSES = 100  # class numbers are kept in eight bits


@dataclass(frozen=True)
class ClassifySettings(PlugOptions, ImageOptions):
    """Settings of ``halfmap classify``."""

    particles: Path = field(metadata={
        "help": "folder of a finished refinement, or a particle file as `halfmap refine` reads it",
        "short": "RUN|particles.star", "positional": True, "aliases": ("--i",)})
    classes: int = field(metadata={"help": "number of classes", "short": "K", "at_least": 1, "aliases": ("--K",)})
    out: Path = field(metadata={
        "help": "folder for the results; made if absent", "short": "folder", "aliases": ("--o",)})
    map: tuple[Path, ...] = field(default=(), metadata={
        "help": "one map that all classes start from, or one for each class", "short": "map.mrc",
        "none": "map.mrc of the RUN", "aliases": ("--ref",)})
    diameter: float | None = field(default=None, metadata={
        "help": "diameter of the circle around the particle, micelle or nanodisc included", "unit": "A", "above": 0,
        "none": "that of the RUN", "aliases": ("--particle_diameter",)})
    symmetry: str | None = field(default=None, metadata={
        "help": "point group of every class, RELION's orientation", "short": "group", "none": "that of the RUN, or C1",
        "aliases": ("--sym",)})
    search: str = field(default="auto", metadata={
        "help": "fixed: particles keep their poses, and only classes are sought; local: poses are polished against "
                "every class; global: they are searched for. auto: fixed where the file has poses, else global",
        "choices": ("auto", "global", "local", "fixed")})
    mask: Path | None = field(default=None, metadata={
        "help": "classes differ within this mask only, 1 inside and 0 outside", "short": "focus.mrc",
        "none": "they differ everywhere"})
    ini_high: float = field(default=30.0, metadata={
        "help": "low-pass filter of the initial maps", "unit": "A", "above": 0, "aliases": ("--ini_high",)})
    max_resolution: float | None = field(default=None, metadata={
        "help": "never compare detail finer than this", "unit": "A", "above": 0, "none": "no limit"})
    threads: int = field(default=0, metadata={
        "help": "CPU threads of the run on this machine, 0 for all cores; under torchrun, of each process",
        "at_least": 0, "aliases": ("--j",)})
    processes: int = field(default=0, metadata={
        "help": "processes of the run on this machine, which divide images and threads; 0: as `halfmap refine`",
        "at_least": 0})
    device: str = field(default="auto", metadata={
        "help": "where to compute; auto takes a GPU if there is one", "choices": ("auto", "cpu", "cuda")})
    deterministic: bool = field(default=False, metadata=DETERMINISTIC)
    regulariser: str = field(default="shared", metadata={
        "help": "what images of a class are compared with: one map of both its half sets (shared), or that of their "
                "own half set, by a Wiener filter of shells (uniform), a local cut-off (nonuniform) or a regulariser "
                "of another package",
        "choices": ("shared", "uniform", "nonuniform", *OF_OTHERS), "advanced": True})
    min_iterations: int = field(default=8, metadata={
        "help": "go on for at least this many iterations, as --max-iterations allows", "at_least": 1, "advanced": True})
    max_iterations: int = field(default=25, metadata={
        "help": "stop after this many iterations even if images still change class", "at_least": 1, "advanced": True})
    data_dir: Path | None = field(default=None, metadata={
        "help": "folder that the image paths in the particle file start from", "short": "folder",
        "none": "found from the particle file", "advanced": True})
    offset_range: float | None = field(default=None, metadata={
        "help": "half-width of a global search for the particle's centre", "unit": "A", "above": 0,
        "none": "automatic", "advanced": True})
    angular_step: float | None = field(default=None, metadata={
        "help": "spacing of a global search's orientation grid", "unit": "deg", "above": 0,
        "none": "from resolution and diameter", "advanced": True})
    posterior: str = field(default="sigma", metadata={
        "help": "poses an image enters a map with: its best one, its modes, or sigma points around them; fixed poses "
                "enter as points", "choices": ("best", "sigma", "modes"), "advanced": True})
    null_hypothesis: bool = field(default=True, metadata={
        "help": "estimate for every image whether it holds a particle at all, and let it count as far as it does; at "
                "fixed poses halfmapParticleProbability of the particle file says it",
        "advanced": True})
    padding: int = field(default=2, metadata={
        "help": "padding of the references before their Fourier transform; 1 needs an eighth of the memory",
        "choices": (1, 2), "aliases": ("--pad",), "advanced": True})
    ewald: str = field(default="off", metadata={
        "help": "correct maps for the curvature of the Ewald sphere, of this sign, which depends on the hand of the "
                "images: positive as relion_reconstruct --ewald, negative as with its --reverse_curvature",
        "choices": ("off", "positive", "negative"), "advanced": True})
    batch: int = field(default=0, metadata={
        "help": "images worked on at once, 0 for automatic", "at_least": 0, "advanced": True})
    max_memory: float | None = field(default=None, metadata={
        "help": "memory that the run may take", "unit": "GB", "above": 0,
        "none": "what the machine and its limits leave", "advanced": True})
    scratch: Path | None = field(default=None, metadata={
        "help": "folder for sums on disk", "short": "folder", "none": "checkpoint in the run's folder",
        "advanced": True})
    seed: int = field(default=0, metadata={
        "help": "seed of every random choice, the first classes among them", "at_least": 0,
        "aliases": ("--random_seed",), "advanced": True})
    keep_iterations: bool = field(default=False, metadata={
        "help": "keep the particle file of every iteration", "advanced": True})
    checkpoint_minutes: float = field(default=10.0, metadata={
        "help": "within an iteration, save what `halfmap resume` needs this often", "unit": "minutes", "above": 0,
        "advanced": True})

    @property
    def given(self) -> bool:
        """Whether every class has a map of its own to start from."""
        return len(self.map) == self.classes

    def refinement(self) -> RefineSettings:
        """The refinement of one map from the same images, whose input and limits are those of the classification."""
        assert self.diameter is not None
        own = {f.name for f in fields(self)} & {f.name for f in fields(RefineSettings)}
        values = {name: getattr(self, name) for name in own}
        return RefineSettings(**values | {
            "map": self.map[0], "mask": None, "symmetry": self.symmetry or "C1",
            "regulariser": "uniform" if self.regulariser == "shared" else self.regulariser,
        })  # fmt: skip


def validated_classify(settings: ClassifySettings) -> ClassifySettings:
    """Check the settings as far as is possible without reading data, make their paths absolute, and take what is not
    given from the RUN.

    Raises InputError for the first choice that cannot work.
    """
    check_declared(settings)
    check_chosen(settings, settings.regulariser)
    check_one_state(settings.phase_flipped, settings.ctf_premultiplied)
    if settings.classes > MOST_CLASSES:
        raise InputError(f"--classes {settings.classes}: at most {MOST_CLASSES}")
    paths = absolute_paths(settings)
    maps = tuple(path.expanduser().absolute() for path in settings.map)
    run = paths["particles"] if paths["particles"].is_dir() else None
    diameter, symmetry = settings.diameter, settings.symmetry
    paths["particles"] = particle_file(paths["particles"])
    if run is not None:
        if not (run / "map.mrc").is_file() or not (run / "settings.toml").is_file():
            raise InputError(f"{run}: is no folder of a refinement (no map.mrc and settings.toml); give one, or a "
                             "particle file with --map and --diameter")
        check_refinement(run)
        own = from_toml(run / "settings.toml")
        maps, diameter, symmetry = maps or (run / "map.mrc",), diameter or own.diameter, symmetry or own.symmetry
        if settings.data_dir is None and own.data_dir is not None:
            paths["data_dir"] = own.data_dir
    if not maps:
        raise InputError(f"{settings.particles}: missing --map: give a map that all classes start from, or one for "
                         "each class, or the folder of a refinement")
    if len(maps) not in (1, settings.classes):
        raise InputError(f"--map: {len(maps)} maps for {settings.classes} classes; give one for each class, or a "
                         "single one")
    if diameter is None:
        raise InputError("missing: --diameter; see --help")
    check_diameter(diameter)
    if settings.max_resolution and settings.max_resolution >= settings.ini_high:
        raise InputError(f"--max-resolution {settings.max_resolution:g}: must be finer than --ini-high "
                         f"{settings.ini_high:g} A, the resolution of the start")
    for path in maps:
        check_readable("map", path)
    for name in ("mask", *option_files(settings, settings.regulariser)):
        if name in paths:
            check_readable(name.replace("_", "-"), paths[name])
    for name in ("data_dir", "scratch"):
        if name in paths and not paths[name].is_dir():
            raise InputError(f"--{name.replace('_', '-')} {paths[name]}: no such folder")
    check_new_run(paths["out"])
    return dataclasses.replace(settings, map=maps, diameter=diameter, symmetry=symmetry or "C1", **paths)
