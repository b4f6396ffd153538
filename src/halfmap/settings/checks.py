"""Checks of the paths among the settings that need no data to be read."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from halfmap.errors import InputError

LEAST_DIAMETER = 20.0  # A
BEGUN = Path("checkpoint", "begun")  # in the folder of a command that goes on, until everything is there


def other_half(half1: Path) -> Path:
    """The half map of half set 2 beside that of half set 1, by the same naming rule as relion_postprocess."""
    if "half1" not in half1.name:
        raise InputError(f"--half1 {half1}: no half1 in the file's name to find the other by; give it with --half2")
    return half1.with_name(half1.name.replace("half1", "half2"))


def check_two_maps(paths: dict[str, Path]) -> None:
    """Raise InputError where half1 and half2 are the same file."""
    if paths["half1"].samefile(paths["half2"]):
        raise InputError(f"--half2 {paths['half2']}: is the same map as --half1; give the one of the other half set")


def check_cryosparc_only(particles: Path, passthrough: Path | None, strip_prefix: str | None) -> None:
    """Raise InputError where an option that applies only to cryoSPARC files is given with another file."""
    if particles.suffix.lower() not in (".cs", ".csg"):
        for name, value in (("passthrough", passthrough), ("strip-prefix", strip_prefix)):
            if value is not None:
                raise InputError(f"--{name} {value}: belongs to a cryoSPARC .cs or .csg file, and the particles are "
                                 f"{particles.name}; leave it out")


def absolute_paths(settings: object) -> dict[str, Any]:
    """The paths among the settings by name, made absolute."""
    values = {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}  # type: ignore[arg-type]
    return {name: value.expanduser().absolute() for name, value in values.items() if isinstance(value, Path)}


def check_readable(name: str, path: Path) -> None:
    """Raise InputError, naming the option, for a path that is not a readable file."""
    fault = unreadable(path)
    if fault:
        raise InputError(f"{path if name == 'particles' else f'--{name} {path}'}: {fault}")


def unreadable(path: Path) -> str:
    """Why a path is not a readable file, in words; empty if it is one."""
    if path.is_dir():
        return "is a folder, not a file"
    if not path.exists():
        return "no such file"
    return "" if os.access(path, os.R_OK) else "no permission to read it"


def particle_file(particles: Path) -> Path:
    """The particle STAR file: that of a run where its folder is given. Raises InputError where it cannot be read."""
    if particles.is_dir():
        if not (particles / "particles.star").exists():
            raise InputError(f"{particles}: holds no particles.star; give the folder of a refinement, or a STAR file")
        particles /= "particles.star"
    check_readable("particles", particles)
    return particles


def check_new_star(option: str, path: Path) -> None:
    """Raise InputError where a STAR file of this name cannot be written, or would overwrite a file."""
    if path.exists():
        raise InputError(f"{option} {path}: exists already; name a new STAR file")
    if path.suffix.lower() != ".star":
        raise InputError(f"{option} {path}: the file to write must be named .star; choose another name")
    if not path.parent.is_dir():
        raise InputError(f"{option} {path}: its folder does not exist; make it first")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"{option} {path}: no permission to write in {path.parent}")


def stopped(out: Path) -> bool:
    """Whether the folder holds what a command left that was stopped, and that goes on when it is given again."""
    return (out / BEGUN).is_file()


def check_new_run(out: Path) -> None:
    """Raise InputError where the folder holds a run already or cannot be written to.

    A run never overwrites another one, and finds out before the work that it cannot write.
    """
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


def check_diameter(diameter: float) -> None:
    """Raise InputError for a diameter (A) that no particle has."""
    if diameter < LEAST_DIAMETER:
        raise InputError(f"--diameter {diameter:g}: below {LEAST_DIAMETER:g} A, which no particle is; give it in "
                         "angstrom")


def check_one_state(phase_flipped: bool, ctf_premultiplied: bool) -> None:
    """Raise InputError where images are said to be both."""
    if phase_flipped and ctf_premultiplied:
        raise InputError("--phase-flipped and --ctf-premultiplied: images are one or the other; give one of them")


def check_new_folder(out: Path) -> None:
    """As `check_new_run`, and raise InputError where the folder holds a map, a curve or a page.

    For commands that read maps and write maps: half maps often have the very names that are written.
    """
    check_new_run(out)
    taken = sorted(path.name for path in out.glob("*") if path.suffix in (".mrc", ".xml", ".html"))
    if taken:
        raise InputError(f"--out {out}: holds {taken[0]}; name a new folder")
