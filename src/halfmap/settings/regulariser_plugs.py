"""Regularisers of other packages: found by the entry point group ``halfmap.regularisers``.

    [project.entry-points."halfmap.regularisers"]
    wavelet = "halfmap_wavelet.declaration:WAVELET"

An entry point has the name of its regulariser and leads to its `Declaration`. One that cannot be used stops nothing but
a command that asks for it: others say in a line what is wrong with it.
"""

from __future__ import annotations

import dataclasses
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from halfmap.errors import InputError, in_a_line
from halfmap.options import check_declared, value_types
from halfmap.regularisation.declaration import Declaration, Need

GROUP = "halfmap.regularisers"
_VALUES = (str, int, float, bool, Path)
_NAME, _PREFIX = re.compile(r"[a-z][a-z0-9_-]*"), re.compile(r"[a-z][a-z0-9_]*_")


@dataclass(frozen=True)
class Broken:
    """A regulariser of another package that cannot be used: its name, the package with its version, and why."""

    name: str
    package: str
    fault: str

    def words(self) -> str:
        """The fault and its remedy, in a line."""
        return f"regulariser {self.name}: {cannot_be_used(self.package, self.fault)}"


@dataclass(frozen=True)
class Plugs:
    """Regularisers of other packages: those that can be used, and the others."""

    usable: tuple[Declaration, ...] = ()
    broken: tuple[Broken, ...] = ()


def cannot_be_used(package: str, fault: str) -> str:
    """What is wrong with a package, and what to do about it, in a line."""
    name = package.split()[0]
    return (f"the package {package} cannot be used ({in_a_line(fault)}); upgrade or reinstall it, or remove it with: "
            f"pip uninstall {name}")


def installed_plugs(own: Sequence[Declaration]) -> Plugs:
    """What other packages declare, in the order of their names. own: Halfmap's regularisers, whose names are taken."""
    if not _any_package():
        return Plugs()
    from importlib import metadata

    usable: list[Declaration] = []
    broken: list[Broken] = []
    points = metadata.entry_points(group=GROUP)
    for point in sorted(points, key=lambda one: (one.name, one.dist.name if one.dist else "")):
        package = f"{point.dist.name} {point.dist.version}" if point.dist else point.value
        try:
            declared = point.load()
        except Exception as error:  # whatever the module of another package does
            broken.append(Broken(point.name, package, f"{type(error).__name__}: {error}"))
            continue
        fault = _fault(declared, point.name) or _clash(declared, [*own, *usable])
        if fault:
            broken.append(Broken(point.name, package, fault))
        else:
            usable.append(replace(declared, package=package))
    return Plugs(tuple(usable), tuple(broken))


def _any_package() -> bool:
    """Whether a package that lies unpacked on Python's path has such an entry point.

    importlib.metadata, which knows, is slow to import: a quarter of the time of a command's help.
    """
    for folder in sys.path:
        try:
            names = [name for name in os.listdir(folder or ".") if name.endswith((".dist-info", ".egg-info"))]
        except OSError:
            continue
        for name in names:
            try:
                with open(os.path.join(folder, name, "entry_points.txt"), "rb") as stream:
                    if GROUP.encode() in stream.read():
                        return True
            except OSError:
                continue
    return False


def _fault(declared: Any, name: str) -> str:
    """Why this is no declaration of a regulariser of that name, in words; empty if it is one."""
    if not isinstance(declared, Declaration):
        return "its entry point leads to no halfmap.regularisation.declaration.Declaration"
    wrong = [f.name for f in dataclasses.fields(declared) if f.name not in ("options", "need", "package")
             and not isinstance(getattr(declared, f.name), str)]
    if wrong:
        return f"{wrong[0]} of its declaration is no text"
    if declared.name != name or not _NAME.fullmatch(name):
        return f"its entry point is {name} and its regulariser {declared.name}: both need one name in small letters"
    if not _PREFIX.fullmatch(declared.prefix):
        return f"prefix {declared.prefix!r} must be small letters that end in an underscore"
    need: Any = declared.need
    if not isinstance(need, Need):
        return "need of its declaration is no halfmap.regularisation.declaration.Need"
    if declared.method.count(":") != 1:
        return f"method {declared.method!r} must be module:Class"
    return _fault_of_options(declared)


def _fault_of_options(declared: Declaration) -> str:
    options, prefix = declared.options, declared.prefix
    if not (isinstance(options, type) and dataclasses.is_dataclass(options)):
        return "options of its declaration are no dataclass"
    for field in dataclasses.fields(options):
        if not field.name.startswith(prefix) or not field.kw_only:
            return f"option {field.name} must begin with {prefix} and be keyword-only"
        if field.default is dataclasses.MISSING or not field.metadata.get("help") or not field.metadata.get("group"):
            return f"option {field.name} needs a default, a help and a group"
        if field.metadata.get("aliases") or field.metadata.get("positional"):
            return f"option {field.name} has an alias or a place, which belong to the command"
    try:
        kinds = value_types(options)
        wrong = [f.name for f in dataclasses.fields(options) if kinds[f.name] not in _VALUES]
        # A class that inherits from it, as those of commands do.
        command: Any = dataclasses.dataclass(frozen=True, kw_only=True)(type("_Command", (options,), {}))
        check_declared(command())
    except (InputError, TypeError, NameError, ValueError) as error:
        return f"its options are none: {error}"
    return f"option {wrong[0]} must be text, a number, yes or no, or a Path" if wrong else ""


def _clash(declared: Declaration, others: Sequence[Declaration]) -> str:
    """Why a declaration cannot stand beside others, in words; empty if it can."""
    for other in others:
        whose = other.package or "Halfmap itself"
        if declared.name == other.name:
            return f"{whose} has a regulariser {other.name} already"
        if declared.prefix.startswith(other.prefix) or other.prefix.startswith(declared.prefix):
            return f"prefix {declared.prefix} clashes with {other.prefix} of {other.name}, {whose}"
    return ""
