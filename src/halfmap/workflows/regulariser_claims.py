"""What every regulariser must do, as functions that its own tests can call: those of another package too.

    @pytest.mark.parametrize("claim", CLAIMS)
    def test_it_does_what_every_regulariser_must(claim, tmp_path):
        CLAIMS[claim]("wavelet", tmp_path)

Each claim takes the name of an installed regulariser and an empty folder, and raises AssertionError with a sentence
where the claim is false. Halfmap's own regularisers are held to the same.
"""

from __future__ import annotations

import inspect
import io
import json
import math
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import MISSING, Field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from halfmap.errors import InputError
from halfmap.fourier.gridding import trilinear_envelope
from halfmap.fourier.transform import half_volume
from halfmap.maps.masks import spherical_mask
from halfmap.particles.model import write_pdb
from halfmap.reconstruction.statistics import Backprojection
from halfmap.refinement.outputs import read_records
from halfmap.refinement.refine import refine
from halfmap.regularisation.protocol import HalfSets, MapPair, Solution
from halfmap.runtime import checkpoint
from halfmap.settings.refine import RefineSettings, validated
from halfmap.settings.regularisers import (
    DECLARED,
    RegulariserOptions,
    check_options,
    regulariser_named,
    regulariser_options,
)
from halfmap.settings.simulate import SimulateSettings
from halfmap.simulation.demo_molecule import demo_molecule
from halfmap.simulation.simulate import simulate
from halfmap.validation.fsc import FscCurves, corrected_fsc, fsc
from halfmap.validation.halfmaps import null_band

BOX, PIXEL, PADDING = 40, 3.0, 2  # of the maps of blobs; PIXEL in A
NOISE = 0.4  # sd in a voxel of a half map, where blobs have a height of 1 and more
LIMIT = (BOX + 1) // 2 - 1
SDS = 5.0  # standard deviations of chance that a shell may stray


def _options_have_the_defaults_of_the_method_and_reach_it(name: str, folder: Path) -> None:
    """Each option has the default of the method's own parameter, a value given arrives, and others refuse it."""
    declared, method = DECLARED[name], _plain(regulariser_named(name))
    parameters = inspect.signature(type(method)).parameters
    for option in fields(declared.options):
        own = option.name.removeprefix(declared.prefix)
        assert own in parameters, f"option {option.name}: the method takes no {own}"
        chosen = regulariser_options(RegulariserOptions(regulariser=name))[own]
        assert parameters[own].default == chosen, f"option {option.name}: its default is not that of the method"
        other = _another_value(option)
        if other is None or option.name == "ss_parameters":  # which chooses between methods too
            continue
        settings = RegulariserOptions(**{"regulariser": name, option.name: other})
        given = regulariser_options(settings)
        assert getattr(_plain(regulariser_named(name, **given)), own) == other, f"option {option.name} does not arrive"
        if name != "uniform":
            try:
                check_options(replace(settings, regulariser="uniform"))
            except InputError:
                continue
            raise AssertionError(f"option {option.name} has no effect with --regulariser uniform, which takes it")


def _another_value(option: Field[Any]) -> Any:
    """A value of an option that is allowed and not its default; None where none is at hand."""
    about, default = option.metadata, option.default
    if about.get("choices"):
        return next((one for one in about["choices"] if one != default), None)
    if isinstance(default, bool):
        return not default
    if isinstance(default, int | float):
        return default + type(default)(1)
    return None if default is MISSING or "float" not in str(option.type) else 7.0


def _plain(method: Any) -> Any:
    """The method of a package itself."""
    return getattr(method, "method", method)


def _options_are_read_in_no_time(name: str, folder: Path) -> None:
    """Help needs the declaration only, and that imports nothing heavy."""
    code = ("import json, sys; before = set(sys.modules); from halfmap.settings.regularisers import DECLARED; "
            f"DECLARED[{name!r}]; print(json.dumps(sorted({{m.split('.')[0] for m in set(sys.modules) - before}})))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "numpy", "scipy", "numba", "pywt"} & set(json.loads(done.stdout))
    assert not heavy, f"to read its options imports {', '.join(sorted(heavy))}: declare it in a module without them"


def _it_is_made_and_says_what_crosses(name: str, folder: Path) -> None:
    """The method has its name, and says what passes from one half set to the other."""
    method = regulariser_named(name)
    assert method.name == name, f"it is named {method.name}"
    assert method.crosses.strip(), "it does not say what crosses between half sets"


def _noise_falls_and_the_molecule_stays(name: str, folder: Path) -> None:
    """Of blobs in noise it makes maps nearer to the truth within the mask, and takes most of the noise outside."""
    truth, noises = _blobs(), [_noise(seed) for seed in (1, 2)]
    halves, mask = _half_sets([truth + noise for noise in noises for _ in (0, 1)], [_noise(s) for s in (3, 4, 5, 6)])
    found = {"solve": regulariser_named(name).solve(halves, mask, {}),
             "filter_pair": regulariser_named(name).filter_pair(
                 MapPair(halves.raw[0], halves.raw[1], halves.curves, PIXEL), mask)}
    inside = mask > 0.5
    for what, solution in found.items():
        for map_, raw in zip(solution.maps, halves.raw, strict=True):
            nearer = _error(map_, truth, inside) / _error(raw, truth, inside)
            assert nearer < 0.95, f"{what}: {nearer:.2f} of the error of the raw map is left within the mask"
            left = float(map_[~inside].std() / raw[~inside].std())
            assert left < 0.6, f"{what}: {left:.2f} of the noise outside the mask is left"


def _nothing_of_one_half_set_is_in_the_map_of_the_other(name: str, folder: Path) -> None:
    """With other noise in half set 2, what changes in the reference of half set 1 is nothing of that noise."""
    truth = _blobs()
    images, quarters = [_noise(1), _noise(1), _noise(2), _noise(2)], [_noise(s) for s in (3, 4, 5, 6)]
    first, mask = _half_sets([truth + one for one in images], quarters)
    images[2:], quarters[2:] = [_noise(7), _noise(7)], [_noise(8), _noise(9)]
    other, _ = _half_sets([truth + one for one in images], quarters)
    method = regulariser_named(name)
    changed = method.solve(first, mask, {}).maps[0] - method.solve(other, mask, {}).maps[0]
    if not bool(changed.abs().max() > 0):
        return
    curve, band = fsc(changed, first.raw[1] - other.raw[1]), null_band(BOX)[: LIMIT + 1]
    worst = float((curve[2 : LIMIT + 1] / band[2:]).abs().max())
    assert worst < SDS, f"the map of half set 1 holds noise of half set 2: {worst:.1f} standard deviations in a shell"


def _the_same_statistics_make_the_same_references(name: str, folder: Path) -> None:
    """Its result repeats to the bit, and what it remembers can be kept in a checkpoint and taken up again."""
    truth = _blobs()
    halves, mask = _half_sets([truth + _noise(1 + i // 2) for i in range(4)], [_noise(s) for s in (3, 4, 5, 6)])
    solved = [regulariser_named(name).solve(halves, mask, {}) for _ in (0, 1)]
    assert _same(*solved), "two calls with the same statistics make different references"
    path = folder / "memory"
    with open(path, "wb") as stream:
        checkpoint.dump(stream, solved[0].memory)
    kept = checkpoint.load(path, ()).content
    again = [regulariser_named(name).solve(halves, mask, memory) for memory in (solved[1].memory, kept)]
    assert _same(*again), "with what it remembers out of a checkpoint it goes on to another reference"


def _same(one: Solution, other: Solution) -> bool:
    return all(torch.equal(a, b) for a, b in zip((*one.maps, one.joined), (*other.maps, other.joined), strict=True))


def _noise_alone_makes_no_correlation_beyond_the_start(name: str, folder: Path) -> None:
    """Einstein from noise: half sets of noise may share what the start told them, and nothing finer.

    300 images of 32 pixels of 5 A and a start at 30 A, which ends at shell 6.3; a mask carries a little of it one shell
    further. Over ten such sets of uniform the mean of a curve's shells in standard deviations of chance lay within 0.3.
    A local search from random poses goes on to finer detail at once, by chance.
    """
    box, pixel_size = 32, 5.0
    write_pdb(folder / "molecule.pdb", demo_molecule())
    simulate(SimulateSettings(model=folder / "molecule.pdb", out=folder / "noise", n=300, box=box, apix=pixel_size,
                              noise_only=True, micrographs=40, seed=10))
    with redirect_stdout(io.StringIO()):
        refine(validated(RefineSettings(
            particles=folder / "noise" / "particles_truth.star", map=folder / "noise" / "initial.mrc", diameter=144.0,
            out=folder / "run", regulariser=name, search="local", max_iterations=8, threads=1, processes=1)))
    records = read_records(folder / "run" / "iterations.jsonl")
    assert max(box * pixel_size / row["band_A"] for row in records) > 6.5, "it never looked beyond the start"
    last = records[-1]
    strays = (torch.tensor(last["fsc"], dtype=torch.float64) / null_band(box))[7:]
    assert abs(float(strays.mean())) < 4 * 1.2 / math.sqrt(len(strays)), "half maps of noise agree beyond the start"
    assert float(strays.abs().max()) < SDS * 1.2, "half maps of noise agree in a shell beyond the start"


_ALL = (
    _options_have_the_defaults_of_the_method_and_reach_it,
    _options_are_read_in_no_time,
    _it_is_made_and_says_what_crosses,
    _noise_falls_and_the_molecule_stays,
    _nothing_of_one_half_set_is_in_the_map_of_the_other,
    _the_same_statistics_make_the_same_references,
    _noise_alone_makes_no_correlation_beyond_the_start,
)
CLAIMS: dict[str, Callable[[str, Path], None]] = {claim.__name__.strip("_").replace("_", " "): claim for claim in _ALL}


def _blobs() -> Tensor:
    """A map [z, y, x] of ten blobs within 20 A of the centre along every axis."""
    random = torch.Generator().manual_seed(5)
    place = (torch.arange(BOX, dtype=torch.float64) - BOX // 2) * PIXEL
    v = torch.zeros(BOX, BOX, BOX, dtype=torch.float64)
    for z, y, x in 40 * torch.rand(10, 3, generator=random, dtype=torch.float64) - 20:
        square = (place[:, None, None] - z).square() + (place[:, None] - y).square() + (place - x).square()
        v += torch.exp(-square / (2 * 4.5**2))
    return v.float()


def _noise(seed: int) -> Tensor:
    return NOISE * torch.randn(BOX, BOX, BOX, generator=torch.Generator().manual_seed(seed))


def _error(map_: Tensor, truth: Tensor, inside: Tensor) -> float:
    return float((map_ - truth)[inside].abs().mean())


def _half_sets(maps: list[Tensor], differences: list[Tensor]) -> tuple[HalfSets, Tensor]:
    """Half sets [h] of quarter sets [q], whose plain maps are ``maps`` [2 h + q] of their half set plus or minus the
    difference of the quarters; and the solvent mask [z, y, x].

    So a half set's noise is that of its map, and its quarters differ by noise of their own.
    """
    mask = spherical_mask(BOX, 12.0, 3.0)

    def curves(half1: Tensor, half2: Tensor) -> FscCurves:
        return corrected_fsc(half1, half2, mask, torch.Generator().manual_seed(0))

    sums = tuple(tuple(_sums(maps[2 * h + q] + (1 - 2 * q) * differences[2 * h]) for q in (0, 1)) for h in (0, 1))
    halves = HalfSets.build(sums, torch.eye(3, dtype=torch.float64)[None], PIXEL, curves)
    return replace(halves, window=mask), mask


def _sums(v: Tensor) -> Backprojection:
    """Unfinished sums of a quarter set, of which a map [z, y, x] is the plain reconstruction.

    The weight is the same everywhere: one over the power of the map's noise, which is twice that of a half set's.
    """
    envelope = trilinear_envelope(BOX, PADDING).to(v)
    squared = (envelope[:, None, None] * envelope[:, None] * envelope).square()
    numerator = torch.view_as_real(half_volume(v * squared, PADDING, LIMIT))
    sums = torch.cat([numerator, torch.ones_like(numerator[..., :1])], dim=-1)
    sums /= 2 * PADDING**3 * NOISE**2 * BOX**3  # power of a coefficient of the map, spread over the points about it
    sums[:, :, 0] /= 2  # to be folded: coefficients of this plane come from both mates
    return Backprojection(sums, BOX, PADDING, LIMIT)
