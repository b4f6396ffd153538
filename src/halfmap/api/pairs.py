"""Two half maps, as arrays or as files: their FSC, and what a regulariser makes of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from halfmap.api.curves import Curves, curves_of_pair
from halfmap.api.functions import dressed, keywords_for, listening
from halfmap.api.keywords import Keyword, PathLike, bound, values_of
from halfmap.commands.half_maps import regularised
from halfmap.commands.table import COMMANDS
from halfmap.errors import InputError
from halfmap.finding import Finding
from halfmap.options import build, check_declared, keywords_of, read_toml
from halfmap.settings.fsc import FscSettings
from halfmap.settings.regularise import FilterOptions, RegulariseSettings
from halfmap.settings.regularisers import check_options

if TYPE_CHECKING:
    from halfmap.workflows.half_map_pair import HalfMaps, NamedMap
    from halfmap.workflows.regularise import Filtered

Float32 = NDArray[np.float32]
MapLike = PathLike | np.ndarray
MAPS = ("half1", "half2", "mask")
VOXEL_SIZE = Keyword("voxel_size", float | None, None, "side of a voxel of maps that are arrays [A]")


@dataclass(frozen=True, eq=False)
class RegularisedMaps:
    """Two half maps as a regulariser filters them outside a refinement.

    half1, half2: filtered; map: their filtered mean; mask; theta: the local cut-off in A, of methods that have one; all
    [z, y, x]. arrays: all that the method keeps, by name; chosen: values that it found; curves: FSC of the raw half
    maps; voxel_size in A; method: its name; crosses: what passes between half sets in a refinement with it; path: the
    folder, where one was written; findings: what is to be said of maps and mask.
    """

    half1: Float32
    half2: Float32
    map: Float32
    mask: Float32
    theta: Float32 | None
    curves: Curves
    voxel_size: float
    method: str
    crosses: str
    arrays: Mapping[str, Float32] = field(default_factory=dict)
    chosen: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None
    findings: tuple[Finding, ...] = ()

    def _repr_html_(self) -> str:
        from halfmap.api.notebook import filtered_html

        return filtered_html(self)


def _with_arrays(command: str) -> list[Keyword]:
    """The keywords of a command on half maps, of which the maps may be arrays, whose voxel size is asked for."""
    changed = []
    for one in keywords_for(command):
        if one.name in MAPS:
            kind = MapLike if one.required else MapLike | None
            one = Keyword(one.name, kind, one.default, one.meaning + "; an array [z, y, x], or a file",
                          one.name != "mask" or command == "fsc")
        changed.append(one)
        if one.name == "mask":
            changed.append(VOXEL_SIZE)
    return sorted(changed, key=lambda one: (not one.positional, one.name == "half2" and not one.required))


def _regularise_keywords() -> list[Keyword]:
    """Those of the command; the method has its short name, and the folder need not be given."""
    changed = []
    for one in _with_arrays("regularise"):
        if one.name == "regulariser":
            one = Keyword("method", one.annotation, one.default, one.meaning)
        elif one.name == "out":
            one = Keyword("out", one.annotation | None, None, "folder for the results, of maps that are files; made if "
                          "absent (default: nothing is written)")
        changed.append(one)
    front = ("half1", "half2", "method", "mask", "voxel_size", "diameter", "out")
    return sorted(changed, key=lambda one: front.index(one.name) if one.name in front else len(front))


FSC_KEYWORDS = _with_arrays("fsc")
REGULARISE_KEYWORDS = _regularise_keywords()


def _fsc(*given: Any, **named: Any) -> Curves:
    values = bound("fsc", FSC_KEYWORDS, given, named)
    progress, verbose, maps, voxel_size = _taken(values)
    with listening("fsc", {name: name for name in keywords_of(FscSettings)}, progress, verbose):
        chosen = values_of(FscSettings, values)
        from halfmap.workflows.fsc_command import told

        pair = _pair(maps, voxel_size, chosen.get("diameter"))
        told(pair, chosen.get("out"))
    return curves_of_pair(pair)


def _regularise(*given: Any, **named: Any) -> RegularisedMaps:
    values = bound("regularise", REGULARISE_KEYWORDS, given, named)
    progress, verbose, maps, voxel_size = _taken(values)
    earlier = values.pop("settings", None)
    if "method" in values:
        values["regulariser"] = values.pop("method")
    names = {name: name for name in keywords_of(RegulariseSettings)} | {"regulariser": "method"}
    with listening("regularise", names, progress, verbose) as findings:
        kept = {} if earlier is None else read_toml(RegulariseSettings, Path(earlier))
        chosen = kept | values_of(RegulariseSettings, values)
        if values.get("out") is None:
            return _filtered(maps, voxel_size, chosen)
        arrays = [name for name, one in maps.items() if not isinstance(one, str | os.PathLike)]
        if arrays:
            raise InputError(f"--out {values['out']}: is for maps in files, and {arrays[0]} is an array; leave it out")
        settings = build(RegulariseSettings, chosen | values_of(RegulariseSettings, maps))
        found = regularised(settings)
        return _shown(found, settings.regulariser, settings.out, tuple(findings))


def _taken(values: dict[str, Any]) -> tuple[Any, ...]:
    """Take out of the values, and return, what is no setting: progress, verbose, the maps by name, their voxel size."""
    maps = {name: values.pop(name) for name in MAPS if values.get(name) is not None}
    return values.pop("progress", None), values.pop("verbose", None), maps, values.pop("voxel_size", None)


def _filtered(maps: Mapping[str, Any], voxel_size: float | None, chosen: dict[str, Any]) -> RegularisedMaps:
    """Filter maps and write nothing."""
    diameter = chosen.get("diameter")
    own = {name: value for name, value in chosen.items() if name in keywords_of(FilterOptions)}
    options = build(FilterOptions, own)
    check_declared(options)
    check_options(options)
    from halfmap.workflows.regularise import filtered

    first = maps.get("half1", chosen.get("half1"))
    pair = _pair({"half1": first} | dict(maps), voxel_size, diameter)
    found = filtered(pair, options, Path("half1"))
    return _shown(found, options.regulariser, None, tuple(pair.verdict()))


def _pair(maps: Mapping[str, Any], voxel_size: float | None, diameter: float | None) -> HalfMaps:
    """The half maps with all their curves. Raises InputError where they do not belong together."""
    from halfmap.settings.checks import other_half
    from halfmap.workflows.half_map_pair import half_map_pair

    maps = dict(maps)
    if "half2" not in maps:
        if not isinstance(maps["half1"], str | os.PathLike):
            raise InputError("half2: is missing; give the map of the other half set")
        maps["half2"] = other_half(Path(maps["half1"]))
    read = _read(maps, voxel_size)
    return half_map_pair(read["half1"], read["half2"], read.get("mask"), diameter)


def _read(maps: Mapping[str, Any], voxel_size: float | None) -> dict[str, NamedMap]:
    """The maps by name: files as they are, arrays with the voxel size given, or that of a file beside them."""
    from halfmap.maps.mrc import read_map
    from halfmap.workflows.half_map_pair import NamedMap

    found, sizes = {}, [voxel_size] if voxel_size is not None else []
    for name, one in maps.items():
        if isinstance(one, str | os.PathLike):
            path = Path(one)
            found[name] = NamedMap(path, read_map(path, outside=0.0 if name == "mask" else None))
            sizes.append(found[name].read.pixel_size)
    if len(found) == len(maps) and voxel_size is not None:
        raise InputError(f"voxel_size={voxel_size:g}: is for arrays, and the files say it themselves; leave it out")
    for name, one in maps.items():
        if name not in found:
            if not sizes or not sizes[0] > 0:
                raise InputError("voxel_size: is missing; give the side of a voxel in A, which arrays do not say")
            found[name] = NamedMap(Path(name), _map_of(name, one, float(sizes[0])))
    return {name: found[name] for name in maps}


def _map_of(name: str, values: Any, voxel_size: float) -> Any:
    """An array as if it had been read from a file."""
    import torch

    from halfmap.maps.mrc import MapFile

    try:
        array = np.array(values, dtype=np.float32)  # a copy: what is done with it must not change the caller's
    except (TypeError, ValueError):
        raise InputError(f"{name}: expected an array of numbers or a path") from None
    if array.ndim != 3 or len(set(array.shape)) != 1 or array.shape[0] < 4:
        sides = " x ".join(map(str, array.shape))
        raise InputError(f"{name}: an array of {sides or 'no axes'}; give a cube [z, y, x]")
    if not np.isfinite(array).all():
        raise InputError(f"{name}: {int((~np.isfinite(array)).sum())} voxels are not finite numbers (NaN or Inf)")
    return MapFile(torch.from_numpy(array), voxel_size)


def _shown(found: Filtered, method: str, path: Path | None, findings: tuple[Finding, ...]) -> RegularisedMaps:
    pair, solution = found.pair, found.solution
    arrays = {name: values.cpu().numpy() for name, values in solution.arrays.items()}
    half1, half2 = (values.cpu().numpy() for values in solution.maps)
    return RegularisedMaps(
        half1, half2, solution.joined.cpu().numpy(), pair.mask.numpy(), arrays.get("theta"), curves_of_pair(pair),
        pair.pixel_size, method, found.method.crosses, arrays, solution.chosen, path, findings)


def _made(call: Callable[..., Any], command: str, wanted: list[Keyword], gives: type) -> Callable[..., Any]:
    summary = COMMANDS[command].summary
    said = (f"{summary[0].upper()}{summary[1:]}.\n\nThe maps are arrays [z, y, x] or files. Computes what ``halfmap "
            f"{command}`` does,\nand writes only where ``out`` is given.")
    return dressed(call, command, said, wanted, gives)


fsc = _made(_fsc, "fsc", FSC_KEYWORDS, Curves)
regularise = _made(_regularise, "regularise", REGULARISE_KEYWORDS, RegularisedMaps)
