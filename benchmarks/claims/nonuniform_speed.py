"""What a regulariser adds to an iteration, in full-size FFTs.

python benchmarks/claims/nonuniform_speed.py [--box 256] [--resolution 4] [--nu-candidates 50] [--threads 1]

Solves one iteration for both half sets from statistics of a phantom in noise, padded twice, and beside it, in turns,
times pairs of real FFTs of the same box (torch.fft.rfftn and irfftn, float32, the same threads). The ratio to 100 pairs
is what a solve costs on any machine. What it adds is the solve less that of `uniform`, which every iteration pays.
`--regulariser` and the options of halfmap refine for it choose another method. Prints a table and writes
benchmarks/results/nonuniform_speed.json (or --result).
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: idle threads must not spin

import argparse
import cProfile
import pstats
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from evidence import RESULTS, circumstances, write_record
from judge import shown
from torch import Tensor

from halfmap import kernels
from halfmap.errors import InputError
from halfmap.fourier.gridding import trilinear_envelope
from halfmap.fourier.shells import frequency_length
from halfmap.fourier.transform import half_volume, volume_fft, volume_ifft
from halfmap.maps.masks import spherical_mask
from halfmap.options import add_options, build, check_declared
from halfmap.reconstruction.statistics import Backprojection
from halfmap.regularisation.protocol import HalfSets, Regulariser
from halfmap.settings.regularisers import RegulariserOptions, check_options, regulariser_named, regulariser_options
from halfmap.validation.fsc import GOLD_STANDARD, corrected_fsc, resolution

PAIRS = 100  # the unit: this many real FFT pairs
PAIRS_AT_ONCE = 10  # timed between two solves
BLOBS, BALL = 2000, 0.3  # atoms of the phantom, in a ball of this radius (of the box)
EDGE = 0.15  # the noise passes the phantom's power over this part of the limiting frequency
BEYOND_BAND = (8, 1.3)  # images are inserted at least 8 shells, and 1.3 times, beyond the shell they are aligned to
PACKAGE = Path(kernels.__file__).parents[1]
SHARE_SHOWN = 0.03  # pieces that take less of a solve are not shown


def options() -> tuple[argparse.Namespace, RegulariserOptions]:
    """The command line, and the regulariser's own options."""
    parser = argparse.ArgumentParser(description="The cost of a regulariser in full-size FFTs.")
    parser.add_argument("--box", type=int, default=256)
    parser.add_argument("--apix", type=float, default=1.0)
    parser.add_argument("--resolution", type=float, default=4.0, help="where the half maps' FSC falls to 0.143 [A]")
    parser.add_argument("--padding", type=int, default=2, choices=(1, 2))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3, help="rounds; the best of each candidate counts")
    parser.add_argument("--result", type=Path, default=RESULTS / "nonuniform_speed.json", metavar="FILE.json")
    add_options(parser, RegulariserOptions)
    given = parser.parse_args()
    chosen = build(RegulariserOptions, {"regulariser": "nonuniform"} | vars(given))
    check_declared(chosen)
    check_options(chosen)
    if given.resolution <= 2 * given.apix:
        raise InputError(f"--resolution {given.resolution:g}: must be coarser than twice --apix {given.apix:g}")
    return given, chosen


def phantom(box: int, random: torch.Generator) -> Tensor:
    """A ball [z,y,x] of atoms, white up to Nyquist frequency."""
    place = torch.randn(BLOBS, 3, generator=random)
    place *= BALL * box * torch.rand(BLOBS, 1, generator=random) ** (1 / 3) / place.norm(dim=1, keepdim=True)
    z, y, x = (place.round().long() + box // 2).T
    v = torch.zeros(box, box, box)
    v[z, y, x] = 1.0
    return v


def half_sets(given: argparse.Namespace) -> HalfSets:
    """Statistics of four quarter sets of a phantom in noise, as far as an iteration inserts images, whose half maps'
    unmasked FSC falls to 0.143 near --resolution."""
    random = torch.Generator().manual_seed(1)
    box, padding = given.box, given.padding
    shell = box * given.apix / given.resolution
    limit = min(box // 2 - 1, round(max(shell + BEYOND_BAND[0], shell * BEYOND_BAND[1])))
    signal = phantom(box, random)
    # noise of a quarter set over signal, by frequency: twice the half set's, (1 - FSC) / FSC at the limit
    ratio = 2 * (1 - GOLD_STANDARD) / GOLD_STANDARD * torch.exp(
        (frequency_length(box) / shell - 1) / EDGE).clamp(max=1e4)
    amplitude = (ratio * float(signal.square().mean())).sqrt()
    envelope = trilinear_envelope(box, padding, torch.float32)
    spread = envelope[:, None, None] * envelope[:, None] * envelope
    mask = spherical_mask(box, 1.2 * BALL * box, 4.0)

    def quarter() -> Backprojection:
        noise = volume_ifft(volume_fft(torch.randn(box, box, box, generator=random)) * amplitude, box)
        # half_volume divides by the envelope, which sums that were inserted still hold
        H = half_volume((signal + noise) * spread.square(), padding, limit)
        empty = Backprojection.zeros(box, padding, limit, signal)
        q = torch.arange(-(H.shape[-1] - 1), H.shape[-1], dtype=torch.float32)
        radius = (q[:, None, None].square() + q[:, None].square() + q[H.shape[-1] - 1:].square()).sqrt()
        weight = 1000.0 / radius.clamp(min=1.0)  # slices crowd towards the origin
        empty.sums[..., 0], empty.sums[..., 1], empty.sums[..., 2] = H.real * weight, H.imag * weight, weight
        empty.sums[:, :, 0] *= 0.5  # the fold adds the Friedel mates of this plane
        return empty

    sums = tuple(tuple(quarter() for _ in range(2)) for _ in range(2))
    return HalfSets.build(sums, torch.eye(3, dtype=torch.float64)[None], given.apix,
                          lambda a, b: corrected_fsc(a, b, mask, torch.Generator().manual_seed(1)))


def fft_pairs(box: int) -> Callable[[], object]:
    """A function that does PAIRS_AT_ONCE pairs of real FFTs on one map."""
    v = torch.randn(box, box, box)

    def run() -> None:
        for _ in range(PAIRS_AT_ONCE):
            torch.fft.irfftn(torch.fft.rfftn(v), s=v.shape)

    return run


def take_turns(candidates: dict[str, Callable[[], object]], repeats: int) -> dict[str, tuple[float, float]]:
    """CPU and wall seconds of each candidate, each the least of several rounds in which they take turns, after one
    that does not count (compilation, page faults)."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in candidates}
    for turn in range(repeats + 1):
        for name, run in candidates.items():
            cpu, wall = time.process_time(), time.monotonic()
            run()
            if turn:
                seconds[name].append((time.process_time() - cpu, time.monotonic() - wall))
    return {name: (min(c for c, _ in found), min(w for _, w in found)) for name, found in seconds.items()}


def pieces(solve: Callable[[], object]) -> dict[str, dict[str, float]]:
    """Where one solve spends its time: by function of the package, wall seconds, of which its own, and calls."""
    profile = cProfile.Profile()
    profile.runcall(solve)
    found = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    rows = {}
    total = max(entry[3] for entry in found.values())
    for (file, _, function), (_, calls, own, whole, _) in found.items():
        if Path(file).is_relative_to(PACKAGE) and whole > SHARE_SHOWN * total:
            rows[f"{Path(file).stem}.{function}"] = {"seconds": whole, "own": own, "calls": calls}
    return dict(sorted(rows.items(), key=lambda row: -row[1]["seconds"]))


def main() -> int:
    """Time, and print."""
    try:
        given, chosen = options()
    except InputError as error:
        print(f"nonuniform_speed: error: {error}", file=sys.stderr)
        return 2
    kernels.set_threads(given.threads)
    torch.set_num_threads(given.threads)
    record: dict[str, Any] = circumstances()
    method = regulariser_named(chosen.regulariser, **regulariser_options(chosen))
    halves, mask = half_sets(given), spherical_mask(given.box, 1.2 * BALL * given.box, 4.0)
    reached = resolution(halves.curves.unmasked, given.box, given.apix)

    def solving(regulariser: Regulariser) -> Callable[[], object]:
        return lambda: regulariser.solve(halves, mask, {})

    pair, name = f"{PAIRS_AT_ONCE} FFT pairs", chosen.regulariser
    seconds = take_turns({
        pair: fft_pairs(given.box), "uniform": solving(regulariser_named("uniform")), name: solving(method)},
        given.repeats)
    unit = [PAIRS / PAIRS_AT_ONCE * value for value in seconds[pair]]
    added = [value - base for value, base in zip(seconds[name], seconds["uniform"], strict=True)]
    rows = {f"{PAIRS} FFT pairs": unit, "uniform": list(seconds["uniform"]), name: list(seconds[name]),
            f"{name} less uniform": added}
    ratios = {label: [value / one for value, one in zip(values, unit, strict=True)] for label, values in rows.items()}
    where = pieces(solving(method))
    shown([(label, [*values, *ratios[label]], ".3f") for label, values in rows.items()],
          ["CPU s", "wall s", "CPU ratio", "wall ratio"],
          f"box {given.box}, half maps to {reached:.2f} A of {given.apix:g} A pixels, {given.threads} threads")
    shown([(label, [row["seconds"], row["own"], row["calls"]], ",.2f") for label, row in where.items()],
          ["wall s", "of these its own", "calls"], f"where one solve of {name} spends its time (profiled, slower)")
    write_record(given.result, record | {
        "box": given.box, "pixel_size": given.apix, "resolution": reached, "padding": given.padding,
        "threads": given.threads, "limit": halves.halves[0].limit, "options": regulariser_options(chosen),
        "seconds_cpu_wall": rows, "ratio_cpu_wall": ratios, "pieces": where})
    return 0


if __name__ == "__main__":
    sys.exit(main())
