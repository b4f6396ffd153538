"""What a user can choose for ``halfmap select``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from halfmap.errors import InputError
from halfmap.options import check_declared, flag
from halfmap.settings.checks import absolute_paths, check_new_star, particle_file


@dataclass(frozen=True)
class SelectSettings:
    """Settings of ``halfmap select``."""

    particles: Path = field(metadata={
        "help": "folder of a refinement, or a particle STAR file that one wrote", "short": "RUN|particles.star",
        "positional": True})
    out: Path = field(metadata={
        "help": "write the particles that pass here, with all their columns", "short": "clean.star",
        "aliases": ("--o",)})
    classes: str | None = field(default=None, metadata={
        "help": "numbers of the classes whose particles pass, such as 1 2 5-8", "short": "N", "several": True,
        "none": "all"})
    classes_not: str | None = field(default=None, metadata={
        "help": "numbers of the classes whose particles do not pass", "short": "N", "several": True, "none": "none"})
    min_probability: float | None = field(default=None, metadata={
        "help": "least probability that the image holds a particle; 0 asks for none", "short": "P", "at_least": 0,
        "none": "0.5; with classes none where the file has no such column"})
    max_angle_sd: float | None = field(default=None, metadata={
        "help": "greatest standard deviation of a particle's orientation", "unit": "deg", "above": 0, "none": "any"})
    max_shift_sd: float | None = field(default=None, metadata={
        "help": "greatest standard deviation of a particle's place", "unit": "A", "above": 0, "none": "any"})
    min_max_posterior: float | None = field(default=None, metadata={
        "help": "least weight of a particle's best pose among its poses, from 0 to 1", "short": "X", "above": 0,
        "none": "any"})
    left_out: Path | None = field(default=None, metadata={
        "help": "write the other particles here, each with the reason in the column halfmapLeftOut",
        "short": "other.star", "none": "the name of --out with _left_out before .star"})


def validated_select(settings: SelectSettings) -> SelectSettings:
    """Check the settings as far as is possible without reading data, and make their paths absolute.

    The particle file of a run is named, and the file of what is left out. Raises InputError for the first choice that
    cannot work, and where a file would be overwritten.
    """
    check_declared(settings)
    _check_criteria(settings)
    for option, text in (("--classes", settings.classes), ("--classes-not", settings.classes_not)):
        class_numbers(option, text or "")
    paths = absolute_paths(settings)
    paths["particles"] = particle_file(paths["particles"])
    out = paths["out"]
    paths.setdefault("left_out", out.with_name(f"{out.stem}_left_out{out.suffix}"))
    for name in ("out", "left_out"):
        check_new_star("--" + name.replace("_", "-"), paths[name])
    if paths["left_out"] == out:
        raise InputError(f"--left-out {out}: is the file of --out; name another")
    return dataclasses.replace(settings, **paths)


def class_numbers(option: str, text: str) -> list[int]:
    """The numbers in a text such as "1 2 5-8", in their order. Raises InputError, naming the option, for other text."""
    numbers: set[int] = set()
    for word in text.replace(",", " ").split():
        first, dash, last = word.partition("-")
        if not first.isdigit() or (dash and not last.isdigit()) or int(last or first) < int(first):
            raise InputError(f"{option} {text}: '{word}' is no class; give numbers, such as 1 2 5-8")
        numbers |= set(range(int(first), int(last or first) + 1))
    return sorted(numbers)


def _check_criteria(settings: SelectSettings) -> None:
    """Raise InputError where no criterion is given, or a share is more than 1."""
    for one in dataclasses.fields(settings):
        value = getattr(settings, one.name)
        if one.name in ("min_probability", "min_max_posterior") and value is not None and value > 1:
            raise InputError(f"{flag(one)} {value}: must be at most 1")
    if settings.classes and settings.classes_not:
        raise InputError("--classes and --classes-not: one says the other; give one of them")
    others = (settings.max_angle_sd, settings.max_shift_sd, settings.min_max_posterior, settings.classes,
              settings.classes_not)
    if settings.min_probability == 0 and not any(others):
        raise InputError("--min-probability 0: leaves nothing to select by; give another criterion too")
