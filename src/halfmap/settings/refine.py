"""What a user can choose for ``halfmap refine``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from halfmap.ctf_refinement.parameters import PARAMETERS
from halfmap.errors import InputError
from halfmap.options import build, check_declared, read_toml
from halfmap.settings.checks import absolute_paths, check_diameter, check_new_run, check_readable
from halfmap.settings.ctf_refine import fit_names
from halfmap.settings.particle_files import DETERMINISTIC, ParticleFileOptions, check_particle_files
from halfmap.settings.regularisers import RegulariserOptions, as_one_name, check_options, option_files


@dataclass(frozen=True)
class RefineSettings(RegulariserOptions, ParticleFileOptions):
    """Settings of ``halfmap refine``."""

    particles: Path = field(metadata={
        "help": "particle images: a RELION STAR file (3.0 or 3.1 layout), or a cryoSPARC .cs or .csg file",
        "short": "particles.star",
        "positional": True, "aliases": ("--i",)})
    diameter: float = field(metadata={
        "help": "diameter of the circle around the particle, micelle or nanodisc included", "unit": "A",
        "above": 0, "aliases": ("--particle_diameter",)})
    out: Path = field(metadata={
        "help": "folder for the results; made if absent", "short": "folder", "aliases": ("--o",)})
    map: Path | None = field(default=None, metadata={
        "help": "initial reference map", "short": "map.mrc", "aliases": ("--ref",),
        "none": "found from the images first, as halfmap start does, and left in the folder start of the results"})
    symmetry: str = field(default="C1", metadata={
        "help": "point group, RELION's orientation: C1 Cn Dn T O I1 I2 I3 I4", "short": "group",
        "aliases": ("--sym",)})
    mask: Path | None = field(default=None, metadata={
        "help": "solvent mask, 1 inside and 0 outside", "short": "mask.mrc",
        "none": "drawn around the map in every iteration", "aliases": ("--solvent_mask",)})
    ini_high: float = field(default=30.0, metadata={
        "help": "low-pass filter of the initial map", "unit": "A", "above": 0, "aliases": ("--ini_high",)})
    threads: int = field(default=0, metadata={
        "help": "CPU threads of the run on this machine, 0 for all cores; under torchrun, of each process",
        "at_least": 0, "aliases": ("--j",)})
    processes: int = field(default=0, metadata={
        "help": "processes of the run on this machine, which divide images and threads; 0: one up to 12 threads, else "
                "one for about 8 if there are 1,000 images and memory for each", "at_least": 0})
    device: str = field(default="auto", metadata={
        "help": "where to compute; auto takes a GPU if there is one", "choices": ("auto", "cpu", "cuda")})
    deterministic: bool = field(default=False, metadata=DETERMINISTIC)
    max_resolution: float | None = field(default=None, metadata={
        "help": "never align on detail finer than this", "unit": "A", "above": 0, "none": "no limit",
        "advanced": True})
    max_iterations: int = field(default=40, metadata={
        "help": "stop after this many iterations even if not converged", "at_least": 1, "advanced": True})
    search: str = field(default="auto", metadata={
        "help": "orientation search: auto goes from global to local, fixed keeps the poses of the STAR file",
        "choices": ("auto", "global", "local", "fixed"), "advanced": True})
    begin_with: int = field(default=0, metadata={
        "help": "images of the random subset that goes first, until its resolution stands still; then more, at last "
                "all, are searched against what it left. 0: 10,000 where there are 25,000 or more, else all",
        "at_least": 0, "advanced": True})
    local_from: float | None = field(default=None, metadata={
        "help": "resolution at which auto turns from global to local search", "unit": "A", "above": 0,
        "none": "automatic", "advanced": True})
    offset_range: float | None = field(default=None, metadata={
        "help": "half-width of the search for the particle's centre", "unit": "A", "above": 0,
        "none": "automatic", "advanced": True})
    angular_step: float | None = field(default=None, metadata={
        "help": "spacing of the global search's orientation grid", "unit": "deg", "above": 0,
        "none": "from resolution and diameter", "advanced": True})
    relax_symmetry: str | None = field(default=None, metadata={
        "help": "local searches: try every pose at its mates in this point group too, of which the map keeps only "
                "--symmetry: for particles that nearly have it", "short": "group", "none": "only known poses",
        "aliases": ("--relax_sym",), "advanced": True})
    ctf_refine: str | None = field(default=None, metadata={
        "help": "fit these to the optics as well, once poses stand still and the resolution allows it, and then before "
                "every iteration: " + ", ".join(PARAMETERS), "short": "NAME", "several": True, "none": "nothing"})
    ctf_refine_from: float = field(default=10.0, metadata={
        "help": "resolution from which optics are fitted, by the FSC of the unmasked half maps: simulated sets that "
                "stop at 7 to 11 A gained by it, and what is not significant stays as it was", "unit": "A", "above": 0,
        "advanced": True})
    prior_rotation: float | None = field(default=None, metadata={
        "help": "local search: standard deviation about each axis of a normal prior of rotations about those of the "
                "particle file", "unit": "deg", "above": 0, "aliases": ("--sigma_ang",),
        "none": "no prior, unless --mask holds a part of the particle only: then estimated, 3 at most",
        "advanced": True})
    prior_shift: float | None = field(default=None, metadata={
        "help": "local search: the same of shifts along x and y, beyond what turns about the mask's centre of mass "
                "explain", "unit": "A", "above": 0, "none": "as --prior-rotation", "advanced": True})
    prior_limit: float = field(default=3.0, metadata={
        "help": "how far a pose may go from that of the particle file, in standard deviations of these priors",
        "unit": "sd", "above": 0, "advanced": True})
    posterior: str = field(default="sigma", metadata={
        "help": "poses an image enters the map with: its best one, its modes, or sigma points around them",
        "choices": ("best", "sigma", "modes"), "advanced": True})
    scale: str = field(default="group", metadata={
        "help": "what shares one intensity scale factor", "choices": ("group", "particle", "none"),
        "bare": "group", "advanced": True})
    null_hypothesis: bool = field(default=True, metadata={
        "help": "estimate for every image whether it holds a particle at all, and let it count as far as it does",
        "advanced": True})
    align_start: bool = field(default=False, metadata={
        "help": "turn the initial map onto the axes of --symmetry, and move it, by its own symmetry",
        "advanced": True})
    flatten_solvent: bool = field(default=True, metadata={
        "help": "clear the reference outside the mask before images are aligned to it",
        "aliases": ("--flatten_solvent",), "advanced": True})
    split_by: str = field(default="auto", metadata={
        "help": "what is kept in one half set where these are drawn, besides all copies of an image; auto: filaments "
                "where the file names them (rlnHelicalTubeID)",
        "choices": ("auto", "particle", "filament", "micrograph"), "advanced": True})
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
    ewald: str = field(default="off", metadata={
        "help": "correct maps for the curvature of the Ewald sphere, of this sign, which depends on the hand of the "
                "images: positive as relion_reconstruct --ewald, negative as with its --reverse_curvature; auto: in "
                "the final pass, of the sign that fits the images",
        "choices": ("off", "positive", "negative", "auto"), "advanced": True})
    batch: int = field(default=0, metadata={
        "help": "images worked on at once, 0 for automatic", "at_least": 0, "advanced": True})
    max_memory: float | None = field(default=None, metadata={
        "help": "memory that the run may take", "unit": "GB", "above": 0,
        "none": "what the machine and its limits leave", "advanced": True})
    sums: str = field(default="auto", metadata={
        "help": "where the sums of the map's transform lie: all in memory, or in files with one quarter set in memory "
                "at a time; auto takes files where memory does not suffice, and for a GPU the machine's memory "
                "first",
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

    @property
    def starting_map(self) -> Path:
        """The map that poses are first searched against, given or found."""
        assert self.map is not None  # a refinement without one finds it before anything else
        return self.map


def validated(settings: RefineSettings) -> RefineSettings:
    """Check the settings as far as is possible without reading data, and make their paths absolute.

    Raises InputError for the first choice that cannot work.
    """
    check_declared(settings)
    check_options(settings)
    settings = as_one_name(settings)
    _check_prior(settings)
    if settings.map is None and settings.search in ("local", "fixed"):
        raise InputError(f"--search {settings.search}: its poses belong to a map; give it with --map")
    if settings.begin_with and settings.search in ("local", "fixed"):
        raise InputError(f"--begin-with {settings.begin_with}: belongs to a search from the map, and this is --search "
                         f"{settings.search}; leave it out")
    if settings.relax_symmetry is not None and settings.search not in ("auto", "local"):
        raise InputError(f"--relax-symmetry {settings.relax_symmetry}: belongs to local searches, and --search "
                         f"{settings.search} has none; leave it out or change the search")
    _check_start(settings)
    if settings.ctf_refine is not None:
        fit_names("--ctf-refine", settings.ctf_refine)
        if settings.search in ("fixed", "global"):
            raise InputError(f"--ctf-refine {settings.ctf_refine}: optics are fitted between local searches, and "
                             f"--search {settings.search} has none; leave it out, or take halfmap ctf-refine")
    elif settings.ctf_refine_from != RefineSettings.ctf_refine_from:
        raise InputError(f"--ctf-refine-from {settings.ctf_refine_from:g}: belongs to --ctf-refine; name what is to be "
                         "fitted, or leave it out")
    if settings.max_resolution and settings.max_resolution >= settings.ini_high:
        raise InputError(f"--max-resolution {settings.max_resolution:g}: must be finer than --ini-high "
                         f"{settings.ini_high:g} A, the resolution of the start")
    paths = absolute_paths(settings)
    check_particle_files(settings, paths)
    for name in ("map", "mask", *option_files(settings, settings.regulariser)):
        if name in paths:
            check_readable(name.replace("_", "-"), paths[name])
    if "scratch" in paths and not paths["scratch"].is_dir():
        raise InputError(f"--scratch {paths['scratch']}: no such folder")
    check_new_run(paths["out"])
    return dataclasses.replace(settings, **paths)


def _check_start(settings: RefineSettings) -> None:
    """Raise InputError for a diameter that no particle has, and where turning the start contradicts other choices."""
    check_diameter(settings.diameter)
    if not settings.align_start:
        return
    if settings.symmetry.strip().upper() == "C1":
        raise InputError("--align-start: C1 has no axes to turn onto; give --symmetry")
    if settings.search in ("local", "fixed"):
        raise InputError(f"--align-start: belongs to a search from the map, and --search {settings.search} starts from "
                         "poses, which belong to the map as it lies; leave it out")
    given = option_files(settings, settings.regulariser).values()
    masks = [value for value in (settings.mask, *given) if value is not None]
    if masks:
        raise InputError(f"--align-start: {masks[0]} belongs to the map as it lies; leave the mask out, or turn both "
                         "beforehand")


def _check_prior(settings: RefineSettings) -> None:
    """Raise InputError where an option of the prior about given poses belongs to another search, or has no effect."""
    widths = {"--prior-rotation": settings.prior_rotation, "--prior-shift": settings.prior_shift}
    limit = settings.prior_limit if settings.prior_limit != RefineSettings.prior_limit else None
    for name, value in (widths | {"--prior-limit": limit}).items():
        if value is not None and settings.search != "local":
            raise InputError(f"{name} {value:g}: belongs to --search local, and this is {settings.search}; leave it "
                             "out or change the search")
    if limit is not None and not any(widths.values()):
        raise InputError(f"--prior-limit {limit:g}: counts standard deviations of --prior-rotation and --prior-shift; "
                         "give one of them")


def from_toml(path: Path) -> RefineSettings:
    """The settings in a ``settings.toml``. Raises InputError as `read_toml` and `build` do."""
    return as_one_name(build(RefineSettings, read_toml(RefineSettings, path)))
