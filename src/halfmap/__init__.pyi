# Made from the settings by `python -m halfmap.api.stub`: a test says when it is to be made again.

import os
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias, overload

from numpy.typing import NDArray

from halfmap.api.curves import Curves as Curves
from halfmap.api.pairs import RegularisedMaps as RegularisedMaps
from halfmap.api.particles import Particles as Particles
from halfmap.api.results import Results as Results
from halfmap.api.run import Run as Run
from halfmap.errors import InputError as InputError
from halfmap.finding import Finding as Finding
from halfmap.runtime.terminal import ProgressUpdate as ProgressUpdate

__version__: str

PathLike: TypeAlias = str | os.PathLike[str]
MapLike: TypeAlias = str | os.PathLike[str] | NDArray[Any]

def audit(
    particles: PathLike,
    *,
    voltage: float | None = None,
    cs: float | None = None,
    amplitude_contrast: float | None = None,
    pixel_size: float | None = None,
    distance: float | None = None,
    data_dir: PathLike | None = None,
    images: bool = True,
    out: PathLike | None = None,
    progress: Callable[[ProgressUpdate], object] | None = None,
    verbose: bool = False,
) -> Results:
    """Find particles that are twice in a STAR file or in both half sets.

    Runs ``halfmap audit``.

    Keywords:
        particles: particle file (STAR, or .cs or .csg of cryoSPARC), or the folder of a refinement
        voltage: acceleration voltage [kV] (default: that of the particle file)
        cs: spherical aberration [mm] (default: that of the particle file)
        amplitude_contrast: amplitude contrast, from 0 to 1 [fraction] (default: that of the particle
            file)
        pixel_size: pixel size of the particle images [A] (default: that of the particle file)
        distance: centres nearer than this on one micrograph are one particle [A] (default: a quarter of
            the diameter of RUN, else an eighth of the images' side)
        data_dir: folder that the image paths in the file start from (default: found from the file)
        images: read all images and compare their pixels, so that copies are found whatever they are
            called; without, images are compared by name (default: yes)
        out: write the particles without duplicates here, in half sets: the first of each is kept,
            copies made by symmetry expansion all stay and go to its half set, filaments stay whole
            (default: only report)
        progress: called with a halfmap.ProgressUpdate as the command goes on; what it raises stops the
            command
        verbose: print what the command line prints

    Returns halfmap.Results: what was written and found. Raises halfmap.InputError for what can be
    mended in files or values, and TypeError for a keyword that is unknown or missing.
    """

@overload
def classes2d(
    particles: PathLike,
    *,
    voltage: float | None = None,
    cs: float | None = None,
    amplitude_contrast: float | None = None,
    pixel_size: float | None = None,
    phase_flipped: bool = False,
    ctf_premultiplied: bool = False,
    invert_contrast: bool = False,
    data_dir: PathLike | None = None,
    passthrough: PathLike | None = None,
    strip_prefix: str | None = None,
    diameter: float,
    out: PathLike,
    threads: int = 0,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    deterministic: bool = False,
    classes: int = 50,
    iterations: int = 20,
    processes: int = 0,
    max_resolution: float | None = None,
    seed: int = 0,
    settings: PathLike | None = None,
    progress: Callable[[ProgressUpdate], object] | None = None,
    verbose: bool = False,
) -> Results:
    """Sort particle images into two-dimensional classes.

    Runs ``halfmap classes2d``.

    Keywords:
        particles: particle images: a RELION STAR file, or a cryoSPARC .cs or .csg file
        voltage: acceleration voltage [kV] (default: that of the particle file)
        cs: spherical aberration [mm] (default: that of the particle file)
        amplitude_contrast: amplitude contrast, from 0 to 1 [fraction] (default: that of the particle
            file)
        pixel_size: pixel size of the particle images [A] (default: that of the particle file)
        phase_flipped: the images' phases were flipped by their CTF, and the particle file does not say
            so (default: no)
        ctf_premultiplied: the images were multiplied by their CTF, and the particle file does not say
            so (default: no)
        invert_contrast: multiply the images by -1 when they are read: for images in which protein is
            dark; the run's particles.star says so in rlnCtfScalefactor (default: no)
        data_dir: folder that the image paths in the particle file start from (default: found from the
            particle file)
        passthrough: passthrough file of a cryoSPARC job, with the fields that the .cs file lacks
            (default: not needed, or named by the .csg file)
        strip_prefix: left out where an image path in a cryoSPARC file begins with it (default: nothing)
        diameter: diameter of the circle around the particle, micelle or nanodisc included [A]
        out: folder for the results; made if absent
        threads: CPU threads of the run on this machine, 0 for all cores; under torchrun, of each
            process (default: 0)
        device: where to compute; auto takes a GPU if there is one (default: auto)
        deterministic: on a GPU: add up in an order that repeats, so that the same command on the same
            machine gives the same bits every time; on a CPU it does anyway (default: no)
        classes: number of classes (default: 50)
        iterations: iterations; the last three take all images (default: 20)
        processes: processes of the run on this machine, which divide images and threads; 0: one up to
            12 threads, else one for about 8 if there are 1,000 images and memory for each (default: 0)
        max_resolution: finest detail that is looked at [A] (default: a fourteenth of the diameter,
            between 9 and 20 A)
        seed: seed of every random choice (default: 0)
        settings: settings.toml of an earlier run: its settings hold where no keyword is given
        progress: called with a halfmap.ProgressUpdate as the command goes on; what it raises stops the
            command
        verbose: print what the command line prints

    Returns halfmap.Results: what was written and found. Raises halfmap.InputError for what can be
    mended in files or values, and TypeError for a keyword that is unknown or missing.
    """

@overload
def classes2d(
    particles: PathLike = ...,
    *,
    voltage: float | None = None,
    cs: float | None = None,
    amplitude_contrast: float | None = None,
    pixel_size: float | None = None,
    phase_flipped: bool = False,
    ctf_premultiplied: bool = False,
    invert_contrast: bool = False,
    data_dir: PathLike | None = None,
    passthrough: PathLike | None = None,
    strip_prefix: str | None = None,
    diameter: float = ...,
    out: PathLike = ...,
    threads: int = 0,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    deterministic: bool = False,
    classes: int = 50,
    iterations: int = 20,
    processes: int = 0,
    max_resolution: float | None = None,
    seed: int = 0,
    settings: PathLike,
    progress: Callable[[ProgressUpdate], object] | None = None,
    verbose: bool = False,
) -> Results:
    ...

@overload
def classify(
    particles: PathLike,
    *,
    voltage: float | None = None,
    cs: float | None = None,
    amplitude_contrast: float | None = None,
    pixel_size: float | None = None,
    phase_flipped: bool = False,
    ctf_premultiplied: bool = False,
    invert_contrast: bool = False,
    classes: int,
    out: PathLike,
    map: PathLike | Sequence[PathLike] = (),
    diameter: float | None = None,
    symmetry: str | None = None,
    search: Literal["auto", "global", "local", "fixed"] = "auto",
    mask: PathLike | None = None,
    ini_high: float = 30.0,
    max_resolution: float | None = None,
    threads: int = 0,
    processes: int = 0,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    deterministic: bool = False,
    regulariser: Literal["shared", "uniform", "nonuniform"] = "shared",
    min_iterations: int = 8,
    max_iterations: int = 25,
    data_dir: PathLike | None = None,
    offset_range: float | None = None,
    angular_step: float | None = None,
    posterior: Literal["best", "sigma", "modes"] = "sigma",
    null_hypothesis: bool = True,
    padding: Literal[1, 2] = 2,
    ewald: Literal["off", "positive", "negative"] = "off",
    batch: int = 0,
    max_memory: float | None = None,
    scratch: PathLike | None = None,
    seed: int = 0,
    keep_iterations: bool = False,
    checkpoint_minutes: float = 10.0,
    settings: PathLike | None = None,
    progress: Callable[[ProgressUpdate], object] | None = None,
    verbose: bool = False,
) -> Run:
    """Sort particles into classes, each with a map of its own.

    Runs ``halfmap classify``.

    Keywords:
        particles: folder of a finished refinement, or a particle file as `halfmap refine` reads it
        voltage: acceleration voltage [kV] (default: that of the particle file)
        cs: spherical aberration [mm] (default: that of the particle file)
        amplitude_contrast: amplitude contrast, from 0 to 1 [fraction] (default: that of the particle
            file)
        pixel_size: pixel size of the particle images [A] (default: that of the particle file)
        phase_flipped: the images' phases were flipped by their CTF, and the particle file does not say
            so (default: no)
        ctf_premultiplied: the images were multiplied by their CTF, and the particle file does not say
            so (default: no)
        invert_contrast: multiply the images by -1 when they are read: for images in which protein is
            dark; the run's particles.star says so in rlnCtfScalefactor (default: no)
        classes: number of classes
        out: folder for the results; made if absent
        map: one map that all classes start from, or one for each class (default: map.mrc of the RUN)
        diameter: diameter of the circle around the particle, micelle or nanodisc included [A] (default:
            that of the RUN)
        symmetry: point group of every class, RELION's orientation (default: that of the RUN, or C1)
        search: fixed: particles keep their poses, and only classes are sought; local: poses are
            polished against every class; global: they are searched for. auto: fixed where the file has
            poses, else global (default: auto)
        mask: classes differ within this mask only, 1 inside and 0 outside (default: they differ
            everywhere)
        ini_high: low-pass filter of the initial maps [A] (default: 30)
        max_resolution: never compare detail finer than this [A] (default: no limit)
        threads: CPU threads of the run on this machine, 0 for all cores; under torchrun, of each
            process (default: 0)
        processes: processes of the run on this machine, which divide images and threads; 0: as `halfmap
            refine` (default: 0)
        device: where to compute; auto takes a GPU if there is one (default: auto)
        deterministic: on a GPU: add up in an order that repeats, so that the same command on the same
            machine gives the same bits every time; on a CPU it does anyway (default: no)
        regulariser: what images of a class are compared with: one map of both its half sets (shared),
            or that of their own half set, by a Wiener filter of shells (uniform), a local cut-off
            (nonuniform) or a regulariser of another package (default: shared)
        min_iterations: go on for at least this many iterations, as --max-iterations allows (default: 8)
        max_iterations: stop after this many iterations even if images still change class (default: 25)
        data_dir: folder that the image paths in the particle file start from (default: found from the
            particle file)
        offset_range: half-width of a global search for the particle's centre [A] (default: automatic)
        angular_step: spacing of a global search's orientation grid [deg] (default: from resolution and
            diameter)
        posterior: poses an image enters a map with: its best one, its modes, or sigma points around
            them; fixed poses enter as points (default: sigma)
        null_hypothesis: estimate for every image whether it holds a particle at all, and let it count
            as far as it does; at fixed poses halfmapParticleProbability of the particle file says it
            (default: yes)
        padding: padding of the references before their Fourier transform; 1 needs an eighth of the
            memory (default: 2)
        ewald: correct maps for the curvature of the Ewald sphere, of this sign, which depends on the
            hand of the images: positive as relion_reconstruct --ewald, negative as with its
            --reverse_curvature (default: off)
        batch: images worked on at once, 0 for automatic (default: 0)
        max_memory: memory that the run may take [GB] (default: what the machine and its limits leave)
        scratch: folder for sums on disk (default: checkpoint in the run's folder)
        seed: seed of every random choice, the first classes among them (default: 0)
        keep_iterations: keep the particle file of every iteration (default: no)
        checkpoint_minutes: within an iteration, save what `halfmap resume` needs this often [minutes]
            (default: 10)
        settings: settings.toml of an earlier run: its settings hold where no keyword is given
        progress: called with a halfmap.ProgressUpdate as the command goes on; what it raises stops the
            command
        verbose: print what the command line prints

    Returns halfmap.Run of the folder. Raises halfmap.InputError for what can be mended in files or
    values, and TypeError for a keyword that is unknown or missing.
    """

@overload
def classify(
    particles: PathLike = ...,
    *,
    voltage: float | None = None,
    cs: float | None = None,
    amplitude_contrast: float | None = None,
    pixel_size: float | None = None,
    phase_flipped: bool = False,
    ctf_premultiplied: bool = False,
    invert_contrast: bool = False,
    classes: int = ...,
    out: PathLike = ...,
    map: PathLike | Sequence[PathLike] = (),
    diameter: float | None = None,
    symmetry: str | None = None,
    search: Literal["auto", "global", "local", "fixed"] = "auto",
    mask: PathLike | None = None,
    ini_high: float = 30.0,
    max_resolution: float | None = None,
    threads: int = 0,
    processes: int = 0,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    deterministic: bool = False,
    regulariser: Literal["shared", "uniform", "nonuniform"] = "shared",
    min_iterations: int = 8,
    max_iterations: int = 25,
    data_dir: PathLike | None = None,
    offset_range: float | None = None,
    angular_step: float | None = None,
    posterior: Literal["best", "sigma", "modes"] = "sigma",
    null_hypothesis: bool = True,
    padding: Literal[1, 2] = 2,
    ewald: Literal["off", "positive", "negative"] = "off",
    batch: int = 0,
    max_memory: float | None = None,
    scratch: PathLike | None = None,
    seed: int = 0,
    keep_iterations: bool = False,
    checkpoint_minutes: float = 10.0,
    settings: PathLike,
    progress: Callable[[ProgressUpdate], object] | None = None,
    verbose: bool = False,
) -> Run:
    ...

def compare(
    runs: PathLike | Sequence[PathLike],
    *,
    mask: PathLike | None = None,
    truth: PathLike | None = None,
    bfactor: float | None = None,
    volume: float | None = None,
    out: PathLike | None = None,
    progress: Callable[[ProgressUpdate], object] | None = None,
    verbose: bool = False,
) -> Results:
    """Two or more runs of the same particles side by side, as a figure.

    Runs ``halfmap compare``.

    Keywords:
        runs: folders of two or more refinements of the same particles; the first is what the others are
            compared with
        mask: solvent mask in the frame of RUN_A, 1 inside and 0 outside, for all runs (default: made
            from the mean of all maps)
        truth: map without noise, of a simulation or an atomic model, to compare every run with
            (default: runs are compared with each other only)
        bfactor: B factor applied to all maps alike; a negative one sharpens [A^2] (default: mean of the
            runs' own)
        volume: volume that all surfaces enclose; protein has 1210 A^3 to the kDa [A^3] (default: that
            above the best threshold of the mean map)
        out: folder for the results; made if absent (default: compare in RUN_A)
        progress: called with a halfmap.ProgressUpdate as the command goes on; what it raises stops the
            command
        verbose: print what the command line prints

    Returns halfmap.Results: what was written and found. Raises halfmap.InputError for what can be
    mended in files or values, and TypeError for a keyword that is unknown or missing.
    """

def convert(
    particles: PathLike,
    out: PathLike,
    *,
    voltage: float | None = None,
    cs: float | None = None,
    amplitude_contrast: float | None = None,
    pixel_size: float | None = None,
    phase_flipped: bool = False,
    ctf_premultiplied: bool = False,
    group_by: str | None = None,
    xml: PathLike | None = None,
    groups: int | None = None,
    passthrough: PathLike | None = None,
    strip_prefix: str | None = None,
    data_dir: PathLike | None = None,
    progress: Callable[[ProgressUpdate], object] | None = None,
    verbose: bool = False,
) -> Particles:
    """Particles from cryoSPARC's format to RELION's, and back; optics groups divided by beam shift.

    Runs ``halfmap convert``.

    Keywords:
        particles: particles: a RELION .star file, or a cryoSPARC .cs or .csg file
        out: the file to write: .star or .cs, of the other kind unless --group-by is given
        voltage: acceleration voltage [kV] (default: that of the particle file)
        cs: spherical aberration [mm] (default: that of the particle file)
        amplitude_contrast: amplitude contrast, from 0 to 1 [fraction] (default: that of the particle
            file)
        pixel_size: pixel size of the particle images [A] (default: that of the particle file)
        phase_flipped: the images' phases were flipped by their CTF, and the particle file does not say
            so (default: no)
        ctf_premultiplied: the images were multiplied by their CTF, and the particle file does not say
            so (default: no)
        group_by: divide the optics groups: by beam-shift (the place within the hole, from the names
            that EPU gives), by what a regular expression finds in micrograph names (name:PATTERN, its
            parentheses) or in a column (COLUMN:PATTERN), or by a column of text or numbers, or two of
            positions (COLUMN,COLUMN), which are clustered (default: the groups of the file)
        xml: folder with the XML files that EPU writes beside its movies; --group-by beam-shift then
            clusters the beam shifts that they hold, which also move from hole to hole (default: file
            names tell the place within the hole)
        groups: how many groups the positions of --group-by fall into (default: as many as lie clearly
            apart)
        passthrough: passthrough file of the cryoSPARC job, with the fields that in.cs lacks (default:
            not needed, or named by the .csg file)
        strip_prefix: left out where an image path in a cryoSPARC file begins with it (default: nothing)
        data_dir: folder that the image paths start from (default: found from the particle file)
        progress: called with a halfmap.ProgressUpdate as the command goes on; what it raises stops the
            command
        verbose: print what the command line prints

    Returns halfmap.Particles of the file. Raises halfmap.InputError for what can be mended in files or
    values, and TypeError for a keyword that is unknown or missing.
    """

def ctf_refine(
    particles: PathLike,
    *,
    voltage: float | None = None,
    cs: float | None = None,
    amplitude_contrast: float | None = None,
    pixel_size: float | None = None,
    phase_flipped: bool = False,
    ctf_premultiplied: bool = False,
    invert_contrast: bool = False,
    data_dir: PathLike | None = None,
    passthrough: PathLike | None = None,
    strip_prefix: str | None = None,
    fit: str | Sequence[int | str],
    out: PathLike,
    half1: PathLike | None = None,
    half2: PathLike | None = None,
    mask: PathLike | None = None,
    diameter: float | None = None,
    coarsest: float = 30.0,
    finest: float | None = None,
    apply: Literal["significant", "all"] = "significant",
    prior_defocus: float | None = None,
    threads: int = 0,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    deterministic: bool = False,
    progress: Callable[[ProgressUpdate], object] | None = None,
    verbose: bool = False,
) -> Results:
    """Defocus, astigmatism, beam tilt and other aberrations from the images of a run.

    Runs ``halfmap ctf-refine``.

    Keywords:
        particles: folder of a finished refinement, or a particle file with poses and half sets: STAR,
            or .cs or .csg of cryoSPARC
        voltage: acceleration voltage [kV] (default: that of the particle file)
        cs: spherical aberration [mm] (default: that of the particle file)
        amplitude_contrast: amplitude contrast, from 0 to 1 [fraction] (default: that of the particle
            file)
        pixel_size: pixel size of the particle images [A] (default: that of the particle file)
        phase_flipped: the images' phases were flipped by their CTF, and the particle file does not say
            so (default: no)
        ctf_premultiplied: the images were multiplied by their CTF, and the particle file does not say
            so (default: no)
        invert_contrast: multiply the images by -1 when they are read: for images in which protein is
            dark; the run's particles.star says so in rlnCtfScalefactor (default: no)
        data_dir: folder that the image paths in the particle file start from (default: found from the
            particle file)
        passthrough: passthrough file of a cryoSPARC job, with the fields that the .cs file lacks
            (default: not needed, or named by the .csg file)
        strip_prefix: left out where an image path in a cryoSPARC file begins with it (default: nothing)
        fit: what is fitted, one or more of: defocus, astigmatism-particle, defocus-micrograph,
            astigmatism, phase-shift, bfactor, tilt, trefoil, tetrafoil, cs, amplitude-contrast,
            magnification
        out: folder for the results; made if absent
        half1: raw half map of half set 1, unfiltered and unmasked, for a particle file (default: that
            of RUN)
        half2: the other raw half map (default: that of RUN, or the name of --half1 with half2 in place
            of half1)
        mask: what the maps are known within, 1 inside and 0 outside (default: that of RUN, or made from
            the maps)
        diameter: diameter of the circle around the particle, for a particle file [A] (default: that of
            RUN)
        coarsest: images are compared with the maps from this resolution on [A] (default: 30)
        finest: and up to this one [A] (default: where the corrected FSC of the half maps falls to
            0.143)
        apply: which values are written: those that a likelihood-ratio test finds significant, or all
            (default: significant)
        prior_defocus: standard deviation of the change of a particle's defocus, before the images are
            looked at [A] (default: as all images say)
        threads: CPU threads, 0 for all cores (default: 0)
        device: where to compute; auto takes a GPU if there is one (default: auto)
        deterministic: on a GPU: add up in an order that repeats, so that the same command on the same
            machine gives the same bits every time; on a CPU it does anyway (default: no)
        progress: called with a halfmap.ProgressUpdate as the command goes on; what it raises stops the
            command
        verbose: print what the command line prints

    Returns halfmap.Results: what was written and found. Raises halfmap.InputError for what can be
    mended in files or values, and TypeError for a keyword that is unknown or missing.
    """

def demo(
    *,
    out: PathLike = "halfmap-demo",
    quick: bool = False,
    progress: Callable[[ProgressUpdate], object] | None = None,
    verbose: bool = False,
) -> Results:
    """Simulate a small membrane protein and refine it.

    Runs ``halfmap demo``.

    Keywords:
        out: folder for images and results (default: halfmap-demo)
        quick: half of the images, with less noise and coarser pixels (default: no)
        progress: called with a halfmap.ProgressUpdate as the command goes on; what it raises stops the
            command
        verbose: print what the command line prints

    Returns halfmap.Results: what was written and found. Raises halfmap.InputError for what can be
    mended in files or values, and TypeError for a keyword that is unknown or missing.
    """

def deposit(
    run: PathLike,
    out: PathLike,
    *,
    map: Literal["sharpened", "local", "regularised"] | None = None,
    pixel_size: float | None = None,
    level: float | None = None,
    progress: Callable[[ProgressUpdate], object] | None = None,
    verbose: bool = False,
) -> Results:
    """Files for an EMDB entry: maps, mask, FSC, image and summary.

    Runs ``halfmap deposit``.

    Keywords:
        run: folder of a finished refinement
        out: new folder for the files of the entry
        map: main map: RUN/map.mrc, or one that `halfmap postprocess` wrote into RUN/postprocess
            (default: the sharpened one if it is there, else the regularised one)
        pixel_size: recalibrated pixel size, written into all headers; resolutions and B factor follow
            [A] (default: the run's)
        level: contour level to recommend, in the main map's grey values (default: what best tells
            molecule from solvent)
        progress: called with a halfmap.ProgressUpdate as the command goes on; what it raises stops the
            command
        verbose: print what the command line prints

    Returns halfmap.Results: what was written and found. Raises halfmap.InputError for what can be
    mended in files or values, and TypeError for a keyword that is unknown or missing.
    """

def expand(
    particles: PathLike,
    *,
    out: PathLike,
    symmetry: str | None = None,
    progress: Callable[[ProgressUpdate], object] | None = None,
    verbose: bool = False,
) -> Particles:
    """Every image at all poses that a point group makes equivalent, as a STAR file.

    Runs ``halfmap expand``.

    Keywords:
        particles: folder of a refinement, or a particle STAR file with angles
        out: write every image at all its equivalent poses here
        symmetry: point group, RELION's orientation: Cn Dn T O I1 I2 I3 I4 (default: that of RUN)
        progress: called with a halfmap.ProgressUpdate as the command goes on; what it raises stops the
            command
        verbose: print what the command line prints

    Returns halfmap.Particles of the file. Raises halfmap.InputError for what can be mended in files or
    values, and TypeError for a keyword that is unknown or missing.
    """

def fsc(
    half1: MapLike,
    half2: MapLike,
    mask: MapLike | None = None,
    *,
    voxel_size: float | None = None,
    diameter: float | None = None,
    out: PathLike | None = None,
    progress: Callable[[ProgressUpdate], object] | None = None,
    verbose: bool = False,
) -> Curves:
    """Fourier shell correlation of two half maps.

    The maps are arrays [z, y, x] or files. Computes what ``halfmap fsc`` does,
    and writes only where ``out`` is given.

    Keywords:
        half1: raw half map; an array [z, y, x], or a file
        half2: the other raw half map; an array [z, y, x], or a file
        mask: mask for the masked and corrected curves, 1 inside and 0 outside (default: made from the
            maps); an array [z, y, x], or a file
        voxel_size: side of a voxel of maps that are arrays [A]
        diameter: diameter of the spherical mask, which also bounds the one made from the maps [A]
            (default: 0.85 of the box)
        out: folder for curves and mask; made if absent (default: only print)
        progress: called with a halfmap.ProgressUpdate as the command goes on; what it raises stops the
            command
        verbose: print what the command line prints

    Returns halfmap.Curves. Raises halfmap.InputError for what can be mended in files or values, and
    TypeError for a keyword that is unknown or missing.
    """

def inspect(
    file: PathLike,
    *,
    voltage: float | None = None,
    cs: float | None = None,
    amplitude_contrast: float | None = None,
    pixel_size: float | None = None,
    phase_flipped: bool = False,
    ctf_premultiplied: bool = False,
    invert_contrast: bool = False,
    images: int = 256,
    diameter: float | None = None,
    symmetry: str | None = None,
    regulariser: Literal[
        "uniform", "nonuniform", "cutoff", "local-fsc", "sidesplitter", "sparse_smooth", "joined",
    ] | None = None,
    padding: Literal[1, 2] | None = None,
    threads: int = 0,
    max_memory: float | None = None,
    data_dir: PathLike | None = None,
    passthrough: PathLike | None = None,
    strip_prefix: str | None = None,
    out: PathLike | None = None,
    progress: Callable[[ProgressUpdate], object] | None = None,
    verbose: bool = False,
) -> Results:
    """What is in a file, whether it is sane, and what a refinement of it would take.

    Runs ``halfmap inspect``.

    Keywords:
        file: particle STAR, .cs or .csg file, image stack or map (.mrcs, .mrc), or the folder of a
            refinement
        voltage: acceleration voltage [kV] (default: that of the particle file)
        cs: spherical aberration [mm] (default: that of the particle file)
        amplitude_contrast: amplitude contrast, from 0 to 1 [fraction] (default: that of the particle
            file)
        pixel_size: pixel size of the particle images [A] (default: that of the particle file)
        phase_flipped: the images' phases were flipped by their CTF, and the particle file does not say
            so (default: no)
        ctf_premultiplied: the images were multiplied by their CTF, and the particle file does not say
            so (default: no)
        invert_contrast: multiply the images by -1 when they are read: for images in which protein is
            dark; the run's particles.star says so in rlnCtfScalefactor (default: no)
        images: images looked at, spread over the file; 0 for all (default: 256)
        diameter: diameter of the particle; what is outside is background [A] (default: that of RUN,
            else two thirds of the images' side)
        symmetry: point group, for the time of a refinement (default: that of RUN, else C1)
        regulariser: regulariser, for the memory of a refinement (default: that of RUN, else that of
            halfmap refine)
        padding: padding, for the memory of a refinement (default: that of RUN, else 2)
        threads: CPU threads, 0 for all cores (default: 0)
        max_memory: memory that a refinement may take [GB] (default: what the machine and its limits
            leave)
        data_dir: folder that the image paths in the particle file start from (default: found from the
            particle file)
        passthrough: passthrough file of a cryoSPARC job, with the fields that the .cs file lacks
            (default: not needed, or named by the .csg file)
        strip_prefix: left out where an image path in a cryoSPARC file begins with it (default: nothing)
        out: folder for the page, inspect.html; made if absent (default: no page)
        progress: called with a halfmap.ProgressUpdate as the command goes on; what it raises stops the
            command
        verbose: print what the command line prints

    Returns halfmap.Results: what was written and found. Raises halfmap.InputError for what can be
    mended in files or values, and TypeError for a keyword that is unknown or missing.
    """

def local_resolution(
    run: PathLike | None = None,
    *,
    half1: PathLike | None = None,
    half2: PathLike | None = None,
    mask: PathLike | None = None,
    window: float | None = None,
    threshold: float = 0.5,
    step: float | None = None,
    out: PathLike | None = None,
    progress: Callable[[ProgressUpdate], object] | None = None,
    verbose: bool = False,
) -> Results:
    """Resolution of two half maps at every place.

    Runs ``halfmap local-resolution``.

    Keywords:
        run: folder of a refinement, with half1_unfil.mrc, half2_unfil.mrc and mask.mrc (default: the
            maps of --half1 and --half2)
        half1: raw half map, unfiltered and unmasked, instead of RUN (default: that of RUN)
        half2: the other raw half map (default: that of RUN, or the name of --half1 with half2 in place
            of half1)
        mask: where to measure, 1 inside and 0 outside (default: that of RUN, or made from the maps)
        window: width of the soft spherical window at half its height [A] (default: 5 times the
            resolution of the maps, at least 20 A)
        threshold: local FSC at which the resolution is read; never below what noise reaches by chance
            (default: 0.5)
        step: distance of the windows [A] (default: a quarter of their width)
        out: folder for the results; made if absent (default: local_resolution in RUN, or beside
            --half1)
        progress: called with a halfmap.ProgressUpdate as the command goes on; what it raises stops the
            command
        verbose: print what the command line prints

    Returns halfmap.Results: what was written and found. Raises halfmap.InputError for what can be
    mended in files or values, and TypeError for a keyword that is unknown or missing.
    """

def model_fsc(
    map: PathLike,
    model: PathLike,
    *,
    half1: PathLike | None = None,
    half2: PathLike | None = None,
    mask: PathLike | None = None,
    assembly: bool = False,
    bfactor: float = 0.0,
    fit: bool = False,
    out: PathLike | None = None,
    progress: Callable[[ProgressUpdate], object] | None = None,
    verbose: bool = False,
) -> Results:
    """Fourier shell correlation of a map and an atomic model.

    Runs ``halfmap model-fsc``.

    Keywords:
        map: map to compare with the model, best unsharpened or sharpened but not masked
        model: atomic model, mmCIF or PDB, placed as the map's header says (by its origin, else by start
            indices)
        half1: half map that the model was refined against: also compared (default: not compared)
        half2: the other half map, which the model has not seen (default: not compared, or the name of
            --half1 with half2 in place of half1)
        mask: mask for the comparison, 1 inside and 0 outside (default: drawn around the model's
            density)
        assembly: build the model's biological assembly 1 (default: no)
        bfactor: B factor added to every atom's own [A^2] (default: 0)
        fit: turn and move the model to where it fits the map best, close to its place, or to the box
            centre (default: no)
        out: write curves, mask and the model's map into this folder (default: only print)
        progress: called with a halfmap.ProgressUpdate as the command goes on; what it raises stops the
            command
        verbose: print what the command line prints

    Returns halfmap.Results: what was written and found. Raises halfmap.InputError for what can be
    mended in files or values, and TypeError for a keyword that is unknown or missing.
    """

def orientations(
    particles: PathLike | None = None,
    *,
    voltage: float | None = None,
    cs: float | None = None,
    amplitude_contrast: float | None = None,
    pixel_size: float | None = None,
    half1: PathLike | None = None,
    half2: PathLike | None = None,
    mask: PathLike | None = None,
    symmetry: str | None = None,
    cone: float = 20.0,
    out: PathLike | None = None,
    progress: Callable[[ProgressUpdate], object] | None = None,
    verbose: bool = False,
) -> Results:
    """How evenly particles are seen from all sides, and the resolution by direction.

    Runs ``halfmap orientations``.

    Keywords:
        particles: folder of a refinement, or a particle STAR file with angles (default: the half maps
            alone)
        voltage: acceleration voltage [kV] (default: that of the particle file)
        cs: spherical aberration [mm] (default: that of the particle file)
        amplitude_contrast: amplitude contrast, from 0 to 1 [fraction] (default: that of the particle
            file)
        pixel_size: pixel size of the particle images [A] (default: that of the particle file)
        half1: raw half map, unfiltered and unmasked, to compare by direction (default: that of RUN)
        half2: the other raw half map (default: that of RUN, or the name of --half1 with half2 in place
            of half1)
        mask: mask for the comparison, 1 inside and 0 outside (default: that of RUN, or made from the
            maps)
        symmetry: point group, RELION's orientation: C1 Cn Dn T O I1 I2 I3 I4 (default: that of RUN,
            else C1)
        cone: half-angle of the cones in which half maps are compared [deg] (default: 20)
        out: folder for the results; made if absent (default: orientations in RUN, or beside the STAR
            file or --half1)
        progress: called with a halfmap.ProgressUpdate as the command goes on; what it raises stops the
            command
        verbose: print what the command line prints

    Returns halfmap.Results: what was written and found. Raises halfmap.InputError for what can be
    mended in files or values, and TypeError for a keyword that is unknown or missing.
    """

def postprocess(
    run: PathLike | None = None,
    *,
    half1: PathLike | None = None,
    half2: PathLike | None = None,
    mask: PathLike | None = None,
    auto_mask: bool = False,
    bfactor: float | None = None,
    fit_from: float = 10.0,
    fit_to: float | None = None,
    mtf: PathLike | None = None,
    mtf_pixel: float | None = None,
    fsc_weight: bool = True,
    lowpass: float | None = None,
    local: bool = False,
    out: PathLike | None = None,
    progress: Callable[[ProgressUpdate], object] | None = None,
    verbose: bool = False,
) -> Results:
    """Resolution, B factor and sharpened map of two half maps.

    Runs ``halfmap postprocess``.

    Keywords:
        run: folder of a refinement, with half1_unfil.mrc, half2_unfil.mrc and mask.mrc (default: the
            maps of --half1 and --half2)
        half1: raw half map, unfiltered and unmasked, instead of RUN (default: that of RUN)
        half2: the other raw half map (default: that of RUN, or the name of --half1 with half2 in place
            of half1)
        mask: solvent mask, 1 inside and 0 outside (default: that of RUN, or made from the maps)
        auto_mask: make the mask from the maps although RUN has one (default: no)
        bfactor: B factor to apply; a negative one sharpens [A^2] (default: from the Guinier plot)
        fit_from: coarsest resolution of the line through the Guinier plot [A] (default: 10)
        fit_to: finest resolution of that line; 0 for Nyquist, which is relion_postprocess's default [A]
            (default: the resolution of the maps)
        mtf: MTF of the detector, a STAR table, to divide the map by (default: no division)
        mtf_pixel: pixel size of the micrographs before any binning, to which the MTF belongs [A]
            (default: the map's)
        fsc_weight: weight the map by sqrt(2 FSC / (1 + FSC)) (default: yes)
        lowpass: resolution to filter the sharpened map to; 0 for no filter [A] (default: the resolution
            of the maps)
        local: also write a sharpened map filtered to its local cut-off: RUN's theta.mrc, or
            cross-validated (default: no)
        out: folder for the results; made if absent (default: postprocess in RUN, or beside --half1)
        progress: called with a halfmap.ProgressUpdate as the command goes on; what it raises stops the
            command
        verbose: print what the command line prints

    Returns halfmap.Results: what was written and found. Raises halfmap.InputError for what can be
    mended in files or values, and TypeError for a keyword that is unknown or missing.
    """

@overload
def refine(
    particles: PathLike,
    *,
    voltage: float | None = None,
    cs: float | None = None,
    amplitude_contrast: float | None = None,
    pixel_size: float | None = None,
    phase_flipped: bool = False,
    ctf_premultiplied: bool = False,
    invert_contrast: bool = False,
    data_dir: PathLike | None = None,
    passthrough: PathLike | None = None,
    strip_prefix: str | None = None,
    regulariser: Literal[
        "uniform", "nonuniform", "cutoff", "local-fsc", "sidesplitter", "sparse_smooth", "joined",
    ] = "nonuniform",
    nu_awf: float = 3.0,
    nu_candidates: int = 50,
    nu_coarsest: float = 30.0,
    nu_finest: float | None = None,
    nu_aligned_noise: Literal["corrected", "ignored"] = "corrected",
    nu_uneven_sampling: Literal["corrected", "ignored"] = "corrected",
    nu_order: int = 8,
    nu_amplitude: Literal["root", "squared"] = "root",
    nu_window: Literal["gaussian", "box"] = "gaussian",
    nu_form: Literal["increment", "literal"] = "increment",
    nu_target: Literal["quarter", "half"] = "half",
    cutoff_resolution: float | None = None,
    cutoff_threshold: float = 0.143,
    cutoff_edge: float = 2.0,
    cutoff_mask: PathLike | None = None,
    cutoff_outside: float | None = None,
    cutoff_weight: float = 1.0,
    local_fsc_mode: Literal["tophat", "wiener"] = "tophat",
    local_fsc_window: float | None = None,
    local_fsc_threshold: float | None = None,
    sidesplitter_mode: Literal["density", "spectrum"] = "density",
    ss_alpha: float = 0.6,
    ss_beta: float = 2.0,
    ss_gamma: float = 0.1,
    ss_eps_gradient: float = 1.0,
    ss_steps: int = 100,
    ss_parameters: Literal["fixed", "cross-validated", "published-code", "local"] = "fixed",
    diameter: float,
    out: PathLike,
    map: PathLike | None = None,
    symmetry: str = "C1",
    mask: PathLike | None = None,
    ini_high: float = 30.0,
    threads: int = 0,
    processes: int = 0,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    deterministic: bool = False,
    max_resolution: float | None = None,
    max_iterations: int = 40,
    search: Literal["auto", "global", "local", "fixed"] = "auto",
    begin_with: int = 0,
    local_from: float | None = None,
    offset_range: float | None = None,
    angular_step: float | None = None,
    relax_symmetry: str | None = None,
    ctf_refine: str | Sequence[int | str] | None = None,
    ctf_refine_from: float = 10.0,
    prior_rotation: float | None = None,
    prior_shift: float | None = None,
    prior_limit: float = 3.0,
    posterior: Literal["best", "sigma", "modes"] = "sigma",
    scale: Literal["group", "particle", "none"] = "group",
    null_hypothesis: bool = True,
    align_start: bool = False,
    flatten_solvent: bool = True,
    split_by: Literal["auto", "particle", "filament", "micrograph"] = "auto",
    resplit: bool = False,
    join_halves: float | None = None,
    padding: Literal[1, 2] = 2,
    insertion: Literal["trilinear", "gaussian"] = "trilinear",
    ewald: Literal["off", "positive", "negative", "auto"] = "off",
    batch: int = 0,
    max_memory: float | None = None,
    sums: Literal["auto", "memory", "disk"] = "auto",
    scratch: PathLike | None = None,
    seed: int = 0,
    keep_iterations: bool = False,
    checkpoint_minutes: float = 10.0,
    settings: PathLike | None = None,
    progress: Callable[[ProgressUpdate], object] | None = None,
    verbose: bool = False,
) -> Run:
    """Refine a map and the particles' poses.

    Runs ``halfmap refine``.

    Keywords:
        particles: particle images: a RELION STAR file (3.0 or 3.1 layout), or a cryoSPARC .cs or .csg
            file
        voltage: acceleration voltage [kV] (default: that of the particle file)
        cs: spherical aberration [mm] (default: that of the particle file)
        amplitude_contrast: amplitude contrast, from 0 to 1 [fraction] (default: that of the particle
            file)
        pixel_size: pixel size of the particle images [A] (default: that of the particle file)
        phase_flipped: the images' phases were flipped by their CTF, and the particle file does not say
            so (default: no)
        ctf_premultiplied: the images were multiplied by their CTF, and the particle file does not say
            so (default: no)
        invert_contrast: multiply the images by -1 when they are read: for images in which protein is
            dark; the run's particles.star says so in rlnCtfScalefactor (default: no)
        data_dir: folder that the image paths in the particle file start from (default: found from the
            particle file)
        passthrough: passthrough file of a cryoSPARC job, with the fields that the .cs file lacks
            (default: not needed, or named by the .csg file)
        strip_prefix: left out where an image path in a cryoSPARC file begins with it (default: nothing)
        regulariser: how each half map is regularised between iterations (default: nonuniform)
        nu_awf: width of the window that cut-offs are compared in [wavelengths] (default: 3)
        nu_candidates: number of cut-offs tried, equispaced in frequency (default: 50)
        nu_coarsest: lowest cut-off tried [A] (default: 30)
        nu_finest: highest cut-off tried [A] (default: a quarter beyond where quarter maps agree)
        nu_aligned_noise: noise that quarter maps share because they were aligned to one reference:
            taken for noise where the FSC of the half maps shows it, or ignored as published (default:
            corrected)
        nu_uneven_sampling: directions that few images show, whose noise is strong: toned down as a
            Wiener filter would before cut-offs are chosen, or left as they are as published (default:
            corrected)
        nu_order: order of the Butterworth filter (default: 8)
        nu_amplitude: the filter's gain: [1 + (f / fc)^(2 order)]^(-1/2), or its square (default: root)
        nu_window: shape of the window: a cube of that width, or a Gaussian of the same variance
            (default: gaussian)
        nu_form: compare cut-offs step by step, each step in its own window, or each as a whole as
            published (default: increment)
        nu_target: the images that the cut-off is best for: a quarter of all, as published, or the half
            that it filters (default: half)
        cutoff_resolution: amplitudes beyond this limit are set to zero [A] (default: where the FSC
            falls below --cutoff-threshold)
        cutoff_threshold: half-map correlation within the mask at which the limit is set [FSC] (default:
            0.143)
        cutoff_edge: width of the cosine edge before the limit [shells] (default: 2)
        cutoff_mask: mask of the well-ordered part, 1 inside; the options below act outside of it
            (default: none: all of the map is treated alike)
        cutoff_outside: low-pass filter outside --cutoff-mask [A] (default: the limit of the rest)
        cutoff_weight: share of the density outside --cutoff-mask that is kept, 0 clears it [share]
            (default: 1)
        local_fsc_mode: keep a band of frequencies where the local FSC exceeds a threshold, or weight it
            by its local SNR (default: tophat)
        local_fsc_window: width of the window that the local FSC is measured in [A] (default: 6 x the
            resolution (wiener: 4 x), at least 15 A)
        local_fsc_threshold: local correlation below which a band is dropped [FSC] (default: 0.143
            (wiener: 0.01))
        sidesplitter_mode: values kept: of the map low-passed at each voxel's level (the program's
            --rotfl), or of the normalised map with its spectrum restored (the program's default)
            (default: density)
        ss_alpha: strength of sparseness, relative to the rms of the back-projected data or 0.45 sd of
            its noise, whichever is less (published-code: to the rms); published range 0.4 to 0.8 [rms
            or noise] (default: 0.6)
        ss_beta: strength of smoothness, relative to the same; published range 0.5 to 4 [rms or noise]
            (default: 2)
        ss_gamma: pull towards the last iteration's map; published range 0.05 to 0.2 [mean weight]
            (default: 0.1)
        ss_eps_gradient: gradient above which smoothness is given up, over the level at which a mask
            would be drawn; published range 1/3 to 2 [mask level] (default: 1)
        ss_steps: most steps of the descent (default: 100)
        ss_parameters: strengths as given; or their common factor chosen within each half set; or as the
            authors' program chooses: by the other half set's images, which leaks; or, at each place, by
            the local cut-off of non-uniform refinement, in the core as given (default: fixed)
        diameter: diameter of the circle around the particle, micelle or nanodisc included [A]
        out: folder for the results; made if absent
        map: initial reference map (default: found from the images first, as halfmap start does, and
            left in the folder start of the results)
        symmetry: point group, RELION's orientation: C1 Cn Dn T O I1 I2 I3 I4 (default: C1)
        mask: solvent mask, 1 inside and 0 outside (default: drawn around the map in every iteration)
        ini_high: low-pass filter of the initial map [A] (default: 30)
        threads: CPU threads of the run on this machine, 0 for all cores; under torchrun, of each
            process (default: 0)
        processes: processes of the run on this machine, which divide images and threads; 0: one up to
            12 threads, else one for about 8 if there are 1,000 images and memory for each (default: 0)
        device: where to compute; auto takes a GPU if there is one (default: auto)
        deterministic: on a GPU: add up in an order that repeats, so that the same command on the same
            machine gives the same bits every time; on a CPU it does anyway (default: no)
        max_resolution: never align on detail finer than this [A] (default: no limit)
        max_iterations: stop after this many iterations even if not converged (default: 40)
        search: orientation search: auto goes from global to local, fixed keeps the poses of the STAR
            file (default: auto)
        begin_with: images of the random subset that goes first, until its resolution stands still; then
            more, at last all, are searched against what it left. 0: 10,000 where there are 25,000 or
            more, else all (default: 0)
        local_from: resolution at which auto turns from global to local search [A] (default: automatic)
        offset_range: half-width of the search for the particle's centre [A] (default: automatic)
        angular_step: spacing of the global search's orientation grid [deg] (default: from resolution
            and diameter)
        relax_symmetry: local searches: try every pose at its mates in this point group too, of which
            the map keeps only --symmetry: for particles that nearly have it (default: only known poses)
        ctf_refine: fit these to the optics as well, once poses stand still and the resolution allows
            it, and then before every iteration: defocus, astigmatism-particle, defocus-micrograph,
            astigmatism, phase-shift, bfactor, tilt, trefoil, tetrafoil, cs, amplitude-contrast,
            magnification (default: nothing)
        ctf_refine_from: resolution from which optics are fitted, by the FSC of the unmasked half maps:
            simulated sets that stop at 7 to 11 A gained by it, and what is not significant stays as it
            was [A] (default: 10)
        prior_rotation: local search: standard deviation about each axis of a normal prior of rotations
            about those of the particle file [deg] (default: no prior, unless --mask holds a part of the
            particle only: then estimated, 3 at most)
        prior_shift: local search: the same of shifts along x and y, beyond what turns about the mask's
            centre of mass explain [A] (default: as --prior-rotation)
        prior_limit: how far a pose may go from that of the particle file, in standard deviations of
            these priors [sd] (default: 3)
        posterior: poses an image enters the map with: its best one, its modes, or sigma points around
            them (default: sigma)
        scale: what shares one intensity scale factor (default: group)
        null_hypothesis: estimate for every image whether it holds a particle at all, and let it count
            as far as it does (default: yes)
        align_start: turn the initial map onto the axes of --symmetry, and move it, by its own symmetry
            (default: no)
        flatten_solvent: clear the reference outside the mask before images are aligned to it (default:
            yes)
        split_by: what is kept in one half set where these are drawn, besides all copies of an image;
            auto: filaments where the file names them (rlnHelicalTubeID) (default: auto)
        resplit: draw new half sets even if the STAR file has them (default: no)
        join_halves: share the half maps' low resolution up to this limit, so that they keep one
            orientation [A] (default: off: half sets stay apart)
        padding: padding of the reference before its Fourier transform; 1 needs an eighth of the memory
            (default: 2)
        insertion: how a coefficient of an image enters the map's transform: shared by the eight grid
            points around it, or by 27 with the Gaussian weights of OPUS-SSRI (default: trilinear)
        ewald: correct maps for the curvature of the Ewald sphere, of this sign, which depends on the
            hand of the images: positive as relion_reconstruct --ewald, negative as with its
            --reverse_curvature; auto: in the final pass, of the sign that fits the images (default:
            off)
        batch: images worked on at once, 0 for automatic (default: 0)
        max_memory: memory that the run may take [GB] (default: what the machine and its limits leave)
        sums: where the sums of the map's transform lie: all in memory, or in files with one quarter set
            in memory at a time; auto takes files where memory does not suffice, and for a GPU the
            machine's memory first (default: auto)
        scratch: folder for sums on disk, best on a fast disk of this machine (default: checkpoint in
            the run's folder)
        seed: seed of every random choice (default: 0)
        keep_iterations: keep the maps and poses of every iteration (default: no)
        checkpoint_minutes: within an iteration, save what `halfmap resume` needs this often [minutes]
            (default: 10)
        settings: settings.toml of an earlier run: its settings hold where no keyword is given
        progress: called with a halfmap.ProgressUpdate as the command goes on; what it raises stops the
            command
        verbose: print what the command line prints

    Returns halfmap.Run of the folder. Raises halfmap.InputError for what can be mended in files or
    values, and TypeError for a keyword that is unknown or missing.
    """

@overload
def refine(
    particles: PathLike = ...,
    *,
    voltage: float | None = None,
    cs: float | None = None,
    amplitude_contrast: float | None = None,
    pixel_size: float | None = None,
    phase_flipped: bool = False,
    ctf_premultiplied: bool = False,
    invert_contrast: bool = False,
    data_dir: PathLike | None = None,
    passthrough: PathLike | None = None,
    strip_prefix: str | None = None,
    regulariser: Literal[
        "uniform", "nonuniform", "cutoff", "local-fsc", "sidesplitter", "sparse_smooth", "joined",
    ] = "nonuniform",
    nu_awf: float = 3.0,
    nu_candidates: int = 50,
    nu_coarsest: float = 30.0,
    nu_finest: float | None = None,
    nu_aligned_noise: Literal["corrected", "ignored"] = "corrected",
    nu_uneven_sampling: Literal["corrected", "ignored"] = "corrected",
    nu_order: int = 8,
    nu_amplitude: Literal["root", "squared"] = "root",
    nu_window: Literal["gaussian", "box"] = "gaussian",
    nu_form: Literal["increment", "literal"] = "increment",
    nu_target: Literal["quarter", "half"] = "half",
    cutoff_resolution: float | None = None,
    cutoff_threshold: float = 0.143,
    cutoff_edge: float = 2.0,
    cutoff_mask: PathLike | None = None,
    cutoff_outside: float | None = None,
    cutoff_weight: float = 1.0,
    local_fsc_mode: Literal["tophat", "wiener"] = "tophat",
    local_fsc_window: float | None = None,
    local_fsc_threshold: float | None = None,
    sidesplitter_mode: Literal["density", "spectrum"] = "density",
    ss_alpha: float = 0.6,
    ss_beta: float = 2.0,
    ss_gamma: float = 0.1,
    ss_eps_gradient: float = 1.0,
    ss_steps: int = 100,
    ss_parameters: Literal["fixed", "cross-validated", "published-code", "local"] = "fixed",
    diameter: float = ...,
    out: PathLike = ...,
    map: PathLike | None = None,
    symmetry: str = "C1",
    mask: PathLike | None = None,
    ini_high: float = 30.0,
    threads: int = 0,
    processes: int = 0,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    deterministic: bool = False,
    max_resolution: float | None = None,
    max_iterations: int = 40,
    search: Literal["auto", "global", "local", "fixed"] = "auto",
    begin_with: int = 0,
    local_from: float | None = None,
    offset_range: float | None = None,
    angular_step: float | None = None,
    relax_symmetry: str | None = None,
    ctf_refine: str | Sequence[int | str] | None = None,
    ctf_refine_from: float = 10.0,
    prior_rotation: float | None = None,
    prior_shift: float | None = None,
    prior_limit: float = 3.0,
    posterior: Literal["best", "sigma", "modes"] = "sigma",
    scale: Literal["group", "particle", "none"] = "group",
    null_hypothesis: bool = True,
    align_start: bool = False,
    flatten_solvent: bool = True,
    split_by: Literal["auto", "particle", "filament", "micrograph"] = "auto",
    resplit: bool = False,
    join_halves: float | None = None,
    padding: Literal[1, 2] = 2,
    insertion: Literal["trilinear", "gaussian"] = "trilinear",
    ewald: Literal["off", "positive", "negative", "auto"] = "off",
    batch: int = 0,
    max_memory: float | None = None,
    sums: Literal["auto", "memory", "disk"] = "auto",
    scratch: PathLike | None = None,
    seed: int = 0,
    keep_iterations: bool = False,
    checkpoint_minutes: float = 10.0,
    settings: PathLike,
    progress: Callable[[ProgressUpdate], object] | None = None,
    verbose: bool = False,
) -> Run:
    ...

@overload
def regularise(
    half1: MapLike,
    half2: MapLike | None = None,
    *,
    method: Literal[
        "uniform", "nonuniform", "cutoff", "local-fsc", "sidesplitter", "sparse_smooth", "joined",
    ] = "nonuniform",
    mask: MapLike | None = None,
    voxel_size: float | None = None,
    diameter: float | None = None,
    out: PathLike | None = None,
    nu_awf: float = 3.0,
    nu_candidates: int = 50,
    nu_coarsest: float = 30.0,
    nu_finest: float | None = None,
    nu_order: int = 8,
    nu_amplitude: Literal["root", "squared"] = "root",
    nu_window: Literal["gaussian", "box"] = "gaussian",
    nu_form: Literal["increment", "literal"] = "increment",
    nu_target: Literal["quarter", "half"] = "half",
    cutoff_resolution: float | None = None,
    cutoff_threshold: float = 0.143,
    cutoff_edge: float = 2.0,
    cutoff_mask: PathLike | None = None,
    cutoff_outside: float | None = None,
    cutoff_weight: float = 1.0,
    local_fsc_mode: Literal["tophat", "wiener"] = "tophat",
    local_fsc_window: float | None = None,
    local_fsc_threshold: float | None = None,
    sidesplitter_mode: Literal["density", "spectrum"] = "density",
    ss_alpha: float = 0.6,
    ss_beta: float = 2.0,
    ss_eps_gradient: float = 1.0,
    ss_steps: int = 100,
    ss_parameters: Literal["fixed", "cross-validated", "published-code", "local"] = "fixed",
    settings: PathLike | None = None,
    progress: Callable[[ProgressUpdate], object] | None = None,
    verbose: bool = False,
) -> RegularisedMaps:
    """Filter two finished half maps with a regulariser.

    The maps are arrays [z, y, x] or files. Computes what ``halfmap regularise`` does,
    and writes only where ``out`` is given.

    Keywords:
        half1: raw half map, unfiltered and unmasked; an array [z, y, x], or a file
        half2: the other raw half map (default: the name of --half1 with half2 in place of half1); an
            array [z, y, x], or a file
        method: how each half map is regularised between iterations (default: nonuniform)
        mask: solvent mask, 1 inside and 0 outside (default: made from the maps); an array [z, y, x], or
            a file
        voxel_size: side of a voxel of maps that are arrays [A]
        diameter: diameter of the spherical mask, which also bounds the one made from the maps [A]
            (default: 0.85 of the box)
        out: folder for the results, of maps that are files; made if absent (default: nothing is
            written)
        nu_awf: width of the window that cut-offs are compared in [wavelengths] (default: 3)
        nu_candidates: number of cut-offs tried, equispaced in frequency (default: 50)
        nu_coarsest: lowest cut-off tried [A] (default: 30)
        nu_finest: highest cut-off tried [A] (default: a quarter beyond where quarter maps agree)
        nu_order: order of the Butterworth filter (default: 8)
        nu_amplitude: the filter's gain: [1 + (f / fc)^(2 order)]^(-1/2), or its square (default: root)
        nu_window: shape of the window: a cube of that width, or a Gaussian of the same variance
            (default: gaussian)
        nu_form: compare cut-offs step by step, each step in its own window, or each as a whole as
            published (default: increment)
        nu_target: the images that the cut-off is best for: a quarter of all, as published, or the half
            that it filters (default: half)
        cutoff_resolution: amplitudes beyond this limit are set to zero [A] (default: where the FSC
            falls below --cutoff-threshold)
        cutoff_threshold: half-map correlation within the mask at which the limit is set [FSC] (default:
            0.143)
        cutoff_edge: width of the cosine edge before the limit [shells] (default: 2)
        cutoff_mask: mask of the well-ordered part, 1 inside; the options below act outside of it
            (default: none: all of the map is treated alike)
        cutoff_outside: low-pass filter outside --cutoff-mask [A] (default: the limit of the rest)
        cutoff_weight: share of the density outside --cutoff-mask that is kept, 0 clears it [share]
            (default: 1)
        local_fsc_mode: keep a band of frequencies where the local FSC exceeds a threshold, or weight it
            by its local SNR (default: tophat)
        local_fsc_window: width of the window that the local FSC is measured in [A] (default: 6 x the
            resolution (wiener: 4 x), at least 15 A)
        local_fsc_threshold: local correlation below which a band is dropped [FSC] (default: 0.143
            (wiener: 0.01))
        sidesplitter_mode: values kept: of the map low-passed at each voxel's level (the program's
            --rotfl), or of the normalised map with its spectrum restored (the program's default)
            (default: density)
        ss_alpha: strength of sparseness, relative to the rms of the back-projected data or 0.45 sd of
            its noise, whichever is less (published-code: to the rms); published range 0.4 to 0.8 [rms
            or noise] (default: 0.6)
        ss_beta: strength of smoothness, relative to the same; published range 0.5 to 4 [rms or noise]
            (default: 2)
        ss_eps_gradient: gradient above which smoothness is given up, over the level at which a mask
            would be drawn; published range 1/3 to 2 [mask level] (default: 1)
        ss_steps: most steps of the descent (default: 100)
        ss_parameters: strengths as given; or their common factor chosen within each half set; or as the
            authors' program chooses: by the other half set's images, which leaks; or, at each place, by
            the local cut-off of non-uniform refinement, in the core as given (default: fixed)
        settings: settings.toml of an earlier run: its settings hold where no keyword is given
        progress: called with a halfmap.ProgressUpdate as the command goes on; what it raises stops the
            command
        verbose: print what the command line prints

    Returns halfmap.RegularisedMaps. Raises halfmap.InputError for what can be mended in files or
    values, and TypeError for a keyword that is unknown or missing.
    """

@overload
def regularise(
    half1: MapLike = ...,
    half2: MapLike | None = None,
    *,
    method: Literal[
        "uniform", "nonuniform", "cutoff", "local-fsc", "sidesplitter", "sparse_smooth", "joined",
    ] = "nonuniform",
    mask: MapLike | None = None,
    voxel_size: float | None = None,
    diameter: float | None = None,
    out: PathLike | None = None,
    nu_awf: float = 3.0,
    nu_candidates: int = 50,
    nu_coarsest: float = 30.0,
    nu_finest: float | None = None,
    nu_order: int = 8,
    nu_amplitude: Literal["root", "squared"] = "root",
    nu_window: Literal["gaussian", "box"] = "gaussian",
    nu_form: Literal["increment", "literal"] = "increment",
    nu_target: Literal["quarter", "half"] = "half",
    cutoff_resolution: float | None = None,
    cutoff_threshold: float = 0.143,
    cutoff_edge: float = 2.0,
    cutoff_mask: PathLike | None = None,
    cutoff_outside: float | None = None,
    cutoff_weight: float = 1.0,
    local_fsc_mode: Literal["tophat", "wiener"] = "tophat",
    local_fsc_window: float | None = None,
    local_fsc_threshold: float | None = None,
    sidesplitter_mode: Literal["density", "spectrum"] = "density",
    ss_alpha: float = 0.6,
    ss_beta: float = 2.0,
    ss_eps_gradient: float = 1.0,
    ss_steps: int = 100,
    ss_parameters: Literal["fixed", "cross-validated", "published-code", "local"] = "fixed",
    settings: PathLike,
    progress: Callable[[ProgressUpdate], object] | None = None,
    verbose: bool = False,
) -> RegularisedMaps:
    ...

def reslog(
    runs: PathLike | Sequence[PathLike] = (),
    *,
    refine: bool = False,
    smallest: int = 100,
    repeats: Literal[1, 2, 4, 8] | None = None,
    fit_from: int = 0,
    mask: PathLike | None = None,
    threads: int = 0,
    seed: int = 0,
    out: PathLike | None = None,
    regularisers: Sequence[Literal[
        "uniform", "nonuniform", "cutoff", "local-fsc", "sidesplitter", "sparse_smooth", "joined",
    ]] = (),
    progress: Callable[[ProgressUpdate], object] | None = None,
    verbose: bool = False,
) -> Results:
    """Resolution against the number of particles, and the B factor it says.

    Runs ``halfmap reslog``.

    Keywords:
        runs: folder of a finished refinement; several are drawn into one plot (default: none)
        refine: refine every subset anew from the starting map; otherwise poses are kept from all
            particles, and the curve measures the data, not the method (default: no)
        smallest: particles are halved until fewer than this would be left (default: 100)
        repeats: subsets of each number, which share no particle, for error bars (default: 4, or 1 with
            --refine)
        fit_from: fewest particles of a point that the line is fitted to (default: 0)
        mask: mask for the masked and corrected FSC of all subsets, 1 inside and 0 outside (default:
            that of each RUN)
        threads: CPU threads, 0 for all cores (default: 0)
        seed: seed of the random subsets (default: 0)
        out: folder for the results; made if absent (default: reslog in RUN, or reslog_refined with
            --refine)
        regularisers: with --refine: regulariser to refine the subsets with, may be given several times
            (default: that of RUN)
        progress: called with a halfmap.ProgressUpdate as the command goes on; what it raises stops the
            command
        verbose: print what the command line prints

    Returns halfmap.Results: what was written and found. Raises halfmap.InputError for what can be
    mended in files or values, and TypeError for a keyword that is unknown or missing.
    """

def resume(
    run: PathLike,
    *,
    threads: int | None = None,
    processes: int | None = None,
    data_dir: PathLike | None = None,
    max_memory: float | None = None,
    scratch: PathLike | None = None,
    progress: Callable[[ProgressUpdate], object] | None = None,
    verbose: bool = False,
) -> Run:
    """Go on with a refinement that was stopped.

    Runs ``halfmap resume``.

    Keywords:
        run: folder of the run that was stopped
        threads: CPU threads, 0 for all cores; the result is the same (default: as before)
        processes: processes on this machine, 0 for automatic; another number starts the iteration under
            way anew (default: as before)
        data_dir: folder that the image paths start from, if the images were moved (default: as before)
        max_memory: memory that the run may take; where it does not fit as before, batches are smaller
            or sums go to disk [GB] (default: as before)
        scratch: folder for sums on disk (default: as before)
        progress: called with a halfmap.ProgressUpdate as the command goes on; what it raises stops the
            command
        verbose: print what the command line prints

    Returns halfmap.Run of the folder. Raises halfmap.InputError for what can be mended in files or
    values, and TypeError for a keyword that is unknown or missing.
    """

def select(
    particles: PathLike,
    *,
    out: PathLike,
    classes: str | Sequence[int | str] | None = None,
    classes_not: str | Sequence[int | str] | None = None,
    min_probability: float | None = None,
    max_angle_sd: float | None = None,
    max_shift_sd: float | None = None,
    min_max_posterior: float | None = None,
    left_out: PathLike | None = None,
    progress: Callable[[ProgressUpdate], object] | None = None,
    verbose: bool = False,
) -> Particles:
    """The particles of a run that pass its own measures, as a STAR file.

    Runs ``halfmap select``.

    Keywords:
        particles: folder of a refinement, or a particle STAR file that one wrote
        out: write the particles that pass here, with all their columns
        classes: numbers of the classes whose particles pass, such as 1 2 5-8 (default: all)
        classes_not: numbers of the classes whose particles do not pass (default: none)
        min_probability: least probability that the image holds a particle; 0 asks for none (default:
            0.5; with classes none where the file has no such column)
        max_angle_sd: greatest standard deviation of a particle's orientation [deg] (default: any)
        max_shift_sd: greatest standard deviation of a particle's place [A] (default: any)
        min_max_posterior: least weight of a particle's best pose among its poses, from 0 to 1 (default:
            any)
        left_out: write the other particles here, each with the reason in the column halfmapLeftOut
            (default: the name of --out with _left_out before .star)
        progress: called with a halfmap.ProgressUpdate as the command goes on; what it raises stops the
            command
        verbose: print what the command line prints

    Returns halfmap.Particles of the file. Raises halfmap.InputError for what can be mended in files or
    values, and TypeError for a keyword that is unknown or missing.
    """

def simulate(
    model: PathLike,
    *,
    out: PathLike,
    n: int = 2000,
    box: int = 96,
    apix: float = 2.0,
    snr: float = 0.1,
    micelle: bool = False,
    hinge: str | None = None,
    symmetry: str = "C1",
    assembly: bool = False,
    micelle_radius: float | None = None,
    micelle_thickness: float = 40.0,
    micelle_centre: float = 0.0,
    micelle_contrast: float = 0.6,
    bfactor: float = 40.0,
    defocus_min: float = 0.8,
    defocus_max: float = 2.2,
    astigmatism: float = 250.0,
    voltage: float = 300.0,
    cs: float = 2.7,
    amplitude_contrast: float = 0.1,
    micrographs: int = 40,
    offset: float = 3.0,
    preferred_orientation: float = 0.0,
    junk: float = 0.0,
    contrast_sd: float = 0.0,
    noise_slope: float = 0.0,
    noise_only: bool = False,
    initial_resolution: float = 30.0,
    dtype: Literal["float32", "float16", "int8"] = "float32",
    seed: int = 0,
    progress: Callable[[ProgressUpdate], object] | None = None,
    verbose: bool = False,
) -> Results:
    """Make particle images from an atomic model.

    Runs ``halfmap simulate``.

    Keywords:
        model: atomic model (mmCIF or PDB, also gzipped)
        out: folder for the images and the truth; made if absent
        n: number of particles (default: 2000)
        box: side of an image [px] (default: 96)
        apix: pixel size [A] (default: 2)
        snr: variance of the signal over that of the noise, over the whole box (default: 0.1)
        micelle: put a detergent belt around the protein, its axis along z, drawn anew for every
            particle (default: no)
        hinge: let a chain swing about its contact with the rest, by this standard deviation; several
            with commas between, each by itself (default: rigid)
        symmetry: point group that the model must have, RELION's orientation; noted with the images
            (default: C1)
        assembly: build the model's biological assembly 1 (default: no)
        micelle_radius: radius of the belt [A] (default: membrane domain and 18 A)
        micelle_thickness: thickness of the belt across the membrane [A] (default: 40)
        micelle_centre: height z of the membrane's middle in the model's coordinates [A] (default: 0)
        micelle_contrast: mean density of the belt over the protein's mean density (default: 0.6)
        bfactor: B factor added to every atom's own [A^2] (default: 40)
        defocus_min: least underfocus [um] (default: 0.8)
        defocus_max: largest underfocus [um] (default: 2.2)
        astigmatism: mean difference between a micrograph's two defocus values [A] (default: 250)
        voltage: acceleration voltage [kV] (default: 300)
        cs: spherical aberration [mm] (default: 2.7)
        amplitude_contrast: amplitude contrast (default: 0.1)
        micrographs: micrographs that the particles come from; each has its defocus (default: 40)
        offset: standard deviation of the particle's place along x and y [A] (default: 3)
        preferred_orientation: strength k of preferred views, density exp(k cos^2 tilt): along z, or
            across it if negative (default: 0)
        junk: fraction of images of nothing (half of them) or of a broken particle (default: 0)
        contrast_sd: standard deviation of the logarithm of the particles' contrast (default: 0)
        noise_slope: exponent p of noise with the power spectrum 1 / frequency^p; 0 is white (default:
            0)
        noise_only: leave the particles out of the images (default: no)
        initial_resolution: resolution of the initial map written beside the images [A] (default: 30)
        dtype: values in the stack: noise has standard deviation 1, or 20 as int8 (default: float32)
        seed: seed of every random choice (default: 0)
        progress: called with a halfmap.ProgressUpdate as the command goes on; what it raises stops the
            command
        verbose: print what the command line prints

    Returns halfmap.Results: what was written and found. Raises halfmap.InputError for what can be
    mended in files or values, and TypeError for a keyword that is unknown or missing.
    """

@overload
def start(
    particles: PathLike,
    *,
    voltage: float | None = None,
    cs: float | None = None,
    amplitude_contrast: float | None = None,
    pixel_size: float | None = None,
    phase_flipped: bool = False,
    ctf_premultiplied: bool = False,
    invert_contrast: bool = False,
    data_dir: PathLike | None = None,
    passthrough: PathLike | None = None,
    strip_prefix: str | None = None,
    diameter: float,
    out: PathLike,
    threads: int = 0,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    deterministic: bool = False,
    symmetry: str | None = None,
    starts: int = 8,
    classes: int = 1,
    images: int = 800,
    processes: int = 0,
    hand: Literal["keep", "flip"] = "keep",
    resolution: float | None = None,
    seed: int = 0,
    settings: PathLike | None = None,
    progress: Callable[[ProgressUpdate], object] | None = None,
    verbose: bool = False,
) -> Results:
    """Find a starting map from the images alone.

    Runs ``halfmap start``.

    Keywords:
        particles: particle images: a RELION STAR file, or a cryoSPARC .cs or .csg file
        voltage: acceleration voltage [kV] (default: that of the particle file)
        cs: spherical aberration [mm] (default: that of the particle file)
        amplitude_contrast: amplitude contrast, from 0 to 1 [fraction] (default: that of the particle
            file)
        pixel_size: pixel size of the particle images [A] (default: that of the particle file)
        phase_flipped: the images' phases were flipped by their CTF, and the particle file does not say
            so (default: no)
        ctf_premultiplied: the images were multiplied by their CTF, and the particle file does not say
            so (default: no)
        invert_contrast: multiply the images by -1 when they are read: for images in which protein is
            dark; the run's particles.star says so in rlnCtfScalefactor (default: no)
        data_dir: folder that the image paths in the particle file start from (default: found from the
            particle file)
        passthrough: passthrough file of a cryoSPARC job, with the fields that the .cs file lacks
            (default: not needed, or named by the .csg file)
        strip_prefix: left out where an image path in a cryoSPARC file begins with it (default: nothing)
        diameter: diameter of the circle around the particle, micelle or nanodisc included [A]
        out: folder for the results; made if absent
        threads: CPU threads of the run on this machine, 0 for all cores; under torchrun, of each
            process (default: 0)
        device: where to compute; auto takes a GPU if there is one (default: auto)
        deterministic: on a GPU: add up in an order that repeats, so that the same command on the same
            machine gives the same bits every time; on a CPU it does anyway (default: no)
        symmetry: point group to impose, in RELION's orientation: Cn Dn T O I1 I2 I3 I4 (default: none;
            the score of every point group is told)
        starts: starts from random orientations, which know nothing of each other (default: 8)
        classes: maps that are sought in the images, for a mixture of particles that are not alike
            (default: 1)
        images: images of the random subset that the map is found from (default: 800)
        processes: processes of the run on this machine, which divide starts and threads; 0: one up to
            12 threads, else one for about 8 if there are a start and memory for each (default: 0)
        hand: flip mirrors the map: images alone cannot tell a map from its mirror image (default: keep)
        resolution: finest detail that starts look at [A] (default: 14, and 9 for point groups of 12
            rotations and more)
        seed: seed of every random choice (default: 0)
        settings: settings.toml of an earlier run: its settings hold where no keyword is given
        progress: called with a halfmap.ProgressUpdate as the command goes on; what it raises stops the
            command
        verbose: print what the command line prints

    Returns halfmap.Results: what was written and found. Raises halfmap.InputError for what can be
    mended in files or values, and TypeError for a keyword that is unknown or missing.
    """

@overload
def start(
    particles: PathLike = ...,
    *,
    voltage: float | None = None,
    cs: float | None = None,
    amplitude_contrast: float | None = None,
    pixel_size: float | None = None,
    phase_flipped: bool = False,
    ctf_premultiplied: bool = False,
    invert_contrast: bool = False,
    data_dir: PathLike | None = None,
    passthrough: PathLike | None = None,
    strip_prefix: str | None = None,
    diameter: float = ...,
    out: PathLike = ...,
    threads: int = 0,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    deterministic: bool = False,
    symmetry: str | None = None,
    starts: int = 8,
    classes: int = 1,
    images: int = 800,
    processes: int = 0,
    hand: Literal["keep", "flip"] = "keep",
    resolution: float | None = None,
    seed: int = 0,
    settings: PathLike,
    progress: Callable[[ProgressUpdate], object] | None = None,
    verbose: bool = False,
) -> Results:
    ...

def subtract(
    run: PathLike,
    *,
    mask: PathLike,
    out: PathLike,
    particles: PathLike | None = None,
    recentre: bool = False,
    box: int | None = None,
    dtype: Literal["float32", "float16"] = "float32",
    data_dir: PathLike | None = None,
    threads: int = 0,
    progress: Callable[[ProgressUpdate], object] | None = None,
    verbose: bool = False,
) -> Results:
    """Particle images less the signal of what a mask leaves out.

    Runs ``halfmap subtract``.

    Keywords:
        run: folder of a finished refinement of the whole particle
        mask: mask of what is kept, 1 inside and 0 outside, on the grid of the run's maps
        out: folder for the images and their STAR file; made if absent
        particles: take these particles, such as the run's after halfmap expand or select (default: all
            of RUN)
        recentre: put the mask's centre into the centre of every image, by whole pixels; the rest goes
            into the origins (default: no)
        box: side of the images that are written [pixels] (default: as they are)
        dtype: type of the values written; float16 takes half the space (default: float32)
        data_dir: folder that the image paths in the particle file start from (default: found from the
            particle file)
        threads: CPU threads, 0 for all cores (default: 0)
        progress: called with a halfmap.ProgressUpdate as the command goes on; what it raises stops the
            command
        verbose: print what the command line prints

    Returns halfmap.Results: what was written and found. Raises halfmap.InputError for what can be
    mended in files or values, and TypeError for a keyword that is unknown or missing.
    """

def tune_ssri(
    run: PathLike,
    *,
    alphas: str = "0.15,0.3,0.6,0.8,1.2",
    betas: str = "0.5,1,2,4",
    gammas: str = "0,0.05,0.1,0.2",
    eps_gradients: str = "1/3,1,2",
    particles: int = 1000,
    mask: PathLike | None = None,
    truth: PathLike | None = None,
    threads: int = 0,
    seed: int = 0,
    out: PathLike | None = None,
    progress: Callable[[ProgressUpdate], object] | None = None,
    verbose: bool = False,
) -> Results:
    """Parameters of the sparse_smooth regulariser, searched for on part of a run's particles.

    Runs ``halfmap tune-ssri``.

    Keywords:
        run: folder of a finished refinement, with any regulariser: particles, starting map and settings
            come from it
        alphas: values of --ss-alpha to try; one value is kept and not searched for (default:
            0.15,0.3,0.6,0.8,1.2)
        betas: values of --ss-beta to try (default: 0.5,1,2,4)
        gammas: values of --ss-gamma to try (default: 0,0.05,0.1,0.2)
        eps_gradients: values of --ss-eps-gradient to try (default: 1/3,1,2)
        particles: particles of every trial, drawn at random from both half sets; all if there are fewer
            (default: 1000)
        mask: mask for the corrected FSC of all trials, 1 inside and 0 outside (default: that of RUN)
        truth: map that simulated particles come from, on the run's grid: shown beside what the half
            maps say, and takes no part in the choice (default: none)
        threads: CPU threads, 0 for all cores (default: 0)
        seed: seed of the random subset (default: 0)
        out: folder for trials and results; finished trials in it are not repeated (default: tune_ssri
            in RUN)
        progress: called with a halfmap.ProgressUpdate as the command goes on; what it raises stops the
            command
        verbose: print what the command line prints

    Returns halfmap.Results: what was written and found. Raises halfmap.InputError for what can be
    mended in files or values, and TypeError for a keyword that is unknown or missing.
    """

def watch(
    folders: PathLike | Sequence[PathLike],
    *,
    port: int | None = None,
    host: str = "127.0.0.1",
    allow_host: str | Sequence[int | str] | None = None,
    progress: Callable[[ProgressUpdate], object] | None = None,
    verbose: bool = False,
) -> Results:
    """Show all runs below a folder in a browser, as they go on.

    Runs ``halfmap watch``.

    Keywords:
        folders: folders of runs, or with runs below them; links to other folders are not followed
        port: port that the pages are served at (default: the first free one from 8642)
        host: address of this machine that is listened at; at 127.0.0.1 only this machine is answered,
            at 0.0.0.0 everybody who reaches it (default: 127.0.0.1)
        allow_host: names by which browsers may call this machine, beside localhost and addresses in
            figures (default: no others)
        progress: called with a halfmap.ProgressUpdate as the command goes on; what it raises stops the
            command
        verbose: print what the command line prints

    Returns halfmap.Results: what was written and found. Raises halfmap.InputError for what can be
    mended in files or values, and TypeError for a keyword that is unknown or missing.
    """
