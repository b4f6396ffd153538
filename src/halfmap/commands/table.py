"""All commands: what each does in a line, the file that holds it, and what it leaves. Importing this costs nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

if TYPE_CHECKING:
    from halfmap.commands.done import Done

# What a command leaves: a run that iterates, a folder of other results, a particle file, or nothing but what it found.
Leaves = Literal["run", "folder", "particles", "values"]


@dataclass(frozen=True)
class Command:
    """One command: its summary in a line, its file in halfmap.commands and in halfmap.cli, and what it leaves."""

    summary: str
    file: str
    leaves: Leaves = "folder"


# In the order of the help text.
COMMANDS: dict[str, Command] = {
    "refine": Command("refine a map and the particles' poses", "refine", "run"),
    "start": Command("find a starting map from the images alone", "start"),
    "classify": Command("sort particles into classes, each with a map of its own", "classify", "run"),
    "resume": Command("go on with a refinement that was stopped", "refine", "run"),
    "inspect": Command("what is in a file, whether it is sane, and what a refinement of it would take", "inspect",
                       "values"),
    "regularise": Command("filter two finished half maps with a regulariser", "half_maps"),
    "postprocess": Command("resolution, B factor and sharpened map of two half maps", "half_maps"),
    "fsc": Command("Fourier shell correlation of two half maps", "half_maps", "values"),
    "local-resolution": Command("resolution of two half maps at every place", "half_maps"),
    "model-fsc": Command("Fourier shell correlation of a map and an atomic model", "half_maps", "values"),
    "compare": Command("two or more runs of the same particles side by side, as a figure", "compare"),
    "orientations": Command("how evenly particles are seen from all sides, and the resolution by direction",
                            "particle_sets"),
    "audit": Command("find particles that are twice in a STAR file or in both half sets", "particle_sets", "values"),
    "classes2d": Command("sort particle images into two-dimensional classes", "classes2d"),
    "select": Command("the particles of a run that pass its own measures, as a STAR file", "particle_sets",
                      "particles"),
    "expand": Command("every image at all poses that a point group makes equivalent, as a STAR file", "particle_sets",
                      "particles"),
    "subtract": Command("particle images less the signal of what a mask leaves out", "particle_sets"),
    "ctf-refine": Command("defocus, astigmatism, beam tilt and other aberrations from the images of a run",
                          "ctf_refine"),
    "convert": Command("particles from cryoSPARC's format to RELION's, and back; optics groups divided by beam shift",
                       "convert", "particles"),
    "reslog": Command("resolution against the number of particles, and the B factor it says", "many_runs"),
    "tune-ssri": Command("parameters of the sparse_smooth regulariser, searched for on part of a run's particles",
                         "many_runs"),
    "watch": Command("show all runs below a folder in a browser, as they go on", "watch", "values"),
    "deposit": Command("files for an EMDB entry: maps, mask, FSC, image and summary", "deposit"),
    "simulate": Command("make particle images from an atomic model", "simulate"),
    "demo": Command("simulate a small membrane protein and refine it", "refine"),
    "report": Command("write a run's report.html anew", "refine"),
}

SHARED = ("refine", "classify", "resume", "start", "classes2d")  # commands that can run in several processes
REPEATED = ("refine", "start", "classify", "regularise", "classes2d")  # that take an earlier run's settings.toml


def identifier(name: str) -> str:
    """The name of a command as a name in Python."""
    return name.replace("-", "_")


def starter(name: str) -> Callable[[Any], Done]:
    """The function that runs a command: it takes its settings, checks them, and raises InputError as they say."""
    found: Callable[[Any], Done] = getattr(import_module(f"halfmap.commands.{COMMANDS[name].file}"), identifier(name))
    return found


def settings_of(name: str) -> type[Any]:
    """The dataclass of a command's settings."""
    found: type[Any] = get_type_hints(starter(name))["settings"]
    return found
