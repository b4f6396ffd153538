"""``halfmap-relion``: the reconstruction step of ``relion_refine --external_reconstruct``.

    export RELION_EXTERNAL_RECONSTRUCT_EXECUTABLE="halfmap-relion --regulariser sparse_smooth"

RELION calls it with a STAR file (relion_sums.py) and reads the map back: in every iteration for both half sets at once,
and in the end once for all images. FSC and tau2, and with them resolution and schedule, remain RELION's own, from the
unregularised sums. The optional STAR file that would replace them is not written.

Each call sees the sums of one half set and nothing of the other. Therefore only methods that declare that they need no
more can run here: ``uniform``, RELION's own filter, ``sparse_smooth``, and those of other packages that have ``alone``
(regularisation/protocol.py). The pull of sparse_smooth needs the map of the last iteration. It is taken
from RELION, which keeps that map of every half set with its solvent cleared: a file of our own could disagree with a
run that was continued from an earlier iteration. Each call adds a line to ``<root>_halfmap.log``.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import Field, dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from halfmap import __version__
from halfmap.errors import InputError, in_a_line
from halfmap.options import OptionParser, add_options, build, check_declared
from halfmap.plugins.command import status_of
from halfmap.settings.regularisers import (
    DECLARED,
    PLUGS,
    OneHalfPlugOptions,
    RegulariserOptions,
    check_options,
    regulariser_named,
    regulariser_options,
)

if TYPE_CHECKING:
    from torch import Tensor

    from halfmap.plugins.relion_sums import Call
    from halfmap.reconstruction.statistics import Backprojection

PROGRAM = "halfmap-relion"
STAMP = "%Y-%m-%d %H:%M:%S"
_INSTEAD = "use uniform or sparse_smooth here, or run the whole refinement in Halfmap (halfmap-relion-job)"
_QUARTERS = "needs the two quarter sets of each half set, and RELION hands over whole half sets"
_OTHER_HALF = "needs the other half set's sums, which RELION reconstructs at the same time in another process"
RELION_SHARES = "nothing crosses here (in RELION: low resolution, FSC, solvent mask)"
_OUTSIDE_EDGE = 3.0  # voxels: width of the soft edge beyond which RELION's maps hold the mean of their corners


def _as_in_refinement(name: str, meaning: str | None = None, default: str | None = None) -> Any:
    """The field of that name as `halfmap refine` declares it. meaning: its help text, default: its default here, where
    they differ."""
    same: Field[Any] = RegulariserOptions.__dataclass_fields__[name]
    about = {key: value for key, value in same.metadata.items() if key != "group"}
    return field(default=default or same.default, metadata=about | ({"help": meaning} if meaning else {}))


@dataclass(frozen=True)
class ExternalSettings(OneHalfPlugOptions):
    """Settings of ``halfmap-relion``."""

    star: Path = field(metadata={
        "help": "the STAR file that RELION writes and names itself", "short": "external_reconstruct.star",
        "positional": True})
    regulariser: str = _as_in_refinement(
        "regulariser", "uniform, as RELION does, or sparse_smooth; the others say why they cannot run here", "uniform")
    ss_alpha: float = _as_in_refinement("ss_alpha")
    ss_beta: float = _as_in_refinement("ss_beta")
    ss_gamma: float = _as_in_refinement("ss_gamma")
    ss_eps_gradient: float = _as_in_refinement("ss_eps_gradient")
    ss_steps: int = _as_in_refinement("ss_steps")
    ss_parameters: str = _as_in_refinement(
        "ss_parameters", "strengths as given; the others say why they cannot run here")
    pixel_size: float | None = field(default=None, metadata={
        "help": "pixel size of the map", "unit": "A", "above": 0, "none": "from RELION's files"})
    threads: int = field(default=0, metadata={
        "help": "CPU threads of each call, 0 for half of the cores: both half sets are reconstructed at once",
        "at_least": 0})


def main(argv: Sequence[str] | None = None) -> int:
    """Run one call and return the exit status: 0, or 2 for an error that the user can correct.

    Such an error is reported in one line here and in the log beside RELION's files.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    return status_of(PROGRAM, lambda: _run(words))


def _run(words: list[str]) -> int:
    parser = OptionParser(
        prog=PROGRAM, usage=f"{PROGRAM} [options] file_external_reconstruct.star",
        description="The reconstruction step of relion_refine --external_reconstruct, called by RELION.",
        epilog=f'Use: export RELION_EXTERNAL_RECONSTRUCT_EXECUTABLE="{PROGRAM} --regulariser sparse_smooth"',
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    add_options(parser, ExternalSettings)
    for broken in PLUGS.broken:
        print(f"{PROGRAM}: note: {broken.words()}", file=sys.stderr)
    parsed: argparse.Namespace = parser.parse_args(words)
    settings = _validated_external(build(ExternalSettings, vars(parsed)))
    from halfmap.plugins.relion_sums import read_call

    call, began = read_call(settings.star), time.monotonic()
    try:
        said = _reconstruct_call(call, settings)
    except Exception as error:  # RELION may not show the output for half set 2
        note(call, f"{PROGRAM}: error: {in_a_line(str(error))}")
        raise
    crosses = RELION_SHARES if call.half else "all images together"
    note(call, f"{said}, {time.monotonic() - began:.1f} s; {crosses}")
    print(f" + Halfmap {__version__}: {said}", flush=True)
    return 0


def _validated_external(settings: ExternalSettings) -> ExternalSettings:
    """Return the settings if they are valid. Raises InputError, with the reason where a method cannot run here."""
    check_declared(settings)
    name = settings.regulariser
    if name in DECLARED and DECLARED[name].without_quarters:
        raise InputError(f"--regulariser {name}: {DECLARED[name].without_quarters}; {_INSTEAD}")
    check_options(_options(settings))
    if settings.ss_parameters != "fixed":
        reason = _OTHER_HALF if settings.ss_parameters == "published-code" else _QUARTERS
        raise InputError(f"--ss-parameters {settings.ss_parameters}: {reason}; leave it out and give --ss-alpha and "
                         "--ss-beta")
    return settings


def _options(settings: ExternalSettings) -> RegulariserOptions:
    """The options of the regulariser. Those that are no setting here have their defaults."""
    names = [f.name for f in fields(RegulariserOptions) if hasattr(settings, f.name)]
    return RegulariserOptions(**{name: getattr(settings, name) for name in names})


def note(call: Call, text: str) -> None:
    """Add a line to the log beside RELION's files. Both half sets may write to it at the same time."""
    who = f"half {call.half}" if call.half else "all images"
    line = f"{datetime.now():{STAMP}} iteration {call.iteration} {call.part} {who}: {text}\n"
    try:
        with call.log.open("ab", buffering=0) as stream:
            stream.write(line.encode())
    except OSError as error:
        raise InputError(f"{call.log}: cannot be written: {error.strerror or error}") from error


def _reconstruct_call(call: Call, settings: ExternalSettings) -> str:
    """Write the map that a call asks for, and say what was done. Raises InputError, and then writes nothing."""
    import torch

    from halfmap import kernels
    from halfmap.maps.mrc import write_map
    from halfmap.plugins.relion_sums import read_sums
    from halfmap.regularisation.protocol import OneHalf
    from halfmap.regularisation.sparse_smooth import SparseSmooth

    kernels.set_threads(settings.threads or max(1, kernels.set_threads() // 2))
    torch.set_num_threads(kernels.thread_count())
    sums = read_sums(call)
    if settings.regulariser == "uniform":
        # RELION does not need the pixel size in the map's header, so any value will do.
        found, said, pixel_size = _relion_wiener(sums, call), "uniform", settings.pixel_size or call.pixel_size or 1.0
    else:
        pixel_size = settings.pixel_size or call.pixel()
        options, previous = regulariser_options(_options(settings)), call.previous()
        if not bool((sums.weight > 0).any()):
            raise InputError("RELION's sums are empty: this half set holds no images; look at its particles")
        since = "from no earlier map" if previous is None else f"from the map of iteration {call.iteration - 1}"
        if settings.regulariser == "sparse_smooth":
            method = SparseSmooth(**options)
            solved = method.alone(sums, pixel_size, previous)
            found, said = solved.map, (f"sparse_smooth alpha {method.alpha:g} beta {method.beta:g} gamma "
                                       f"{method.gamma:g}, {len(solved.objective) - 1} steps, {since}")
        else:
            found = cast(OneHalf, regulariser_named(settings.regulariser, **options)).alone(sums, pixel_size, previous)
            chosen = "".join(f" {name} {value}" for name, value in options.items())
            said = f"{settings.regulariser}{chosen}, {since}"
    write_map(call.result, found, pixel_size)
    return said


def _relion_wiener(sums: Backprojection, call: Call) -> Tensor:
    """RELION's map [z, y, x] with 1/tau2 added to the weight and no density weights (--skip_gridding).

    Scheres (2012) J. Struct. Biol. 180, 519. Weights are at least a thousandth of their mean over the shell [q, q + 1).
    Beyond the half box the map is set to the mean of its corners. The envelope that is divided out is that of RELION's
    projector, a function of the radius.
    """
    import torch

    from halfmap.fourier.shells import half_volume_radius
    from halfmap.fourier.transform import from_half_volume
    from halfmap.maps.masks import spherical_mask

    p, box, limit = call.padding, call.box, call.limit
    radius = half_volume_radius((sums.sums.shape[0] - 1) // 2)
    inside = radius.square().round() < round((p * limit) ** 2)
    scale = 2 * box**4
    weight = sums.weight * scale  # in RELION's units, those of tau2
    prior = 1 / (p**3 * call.fudge * torch.from_numpy(call.tau2))
    shell = (radius / p + 0.5).floor().long().clamp(max=len(prior) - 1)
    added = prior.to(weight)[shell]
    weight = weight + added.where(added.isfinite(), 1000 / weight).where(inside & (weight > 0), 0.0)
    ring = (radius / p).floor().long().where(inside, limit + 1).clamp(max=limit + 1)
    total, count = (torch.bincount(ring.flatten(), v, minlength=limit + 2) for v in
                    (weight.double().flatten(), torch.ones(ring.numel(), dtype=torch.float64)))
    floor = (total / count.clamp_min(1) / 1000).to(weight)[ring]
    divisor = torch.maximum(weight, floor) / scale
    ratio = (sums.numerator / divisor).where(inside & (divisor > 0), 0.0)
    found = from_half_volume(ratio, p, box)
    kept = spherical_mask(box, box / 2, _OUTSIDE_EDGE)
    found = kept * found + (1 - kept) * (((1 - kept) * found).sum() / (1 - kept).sum())
    x = torch.arange(box, dtype=torch.float64) - box // 2
    r = (x[:, None, None].square() + x[:, None].square() + x.square()).sqrt()
    return found / torch.sinc(r / (p * box)).square().to(found)


if __name__ == "__main__":
    sys.exit(main())
