"""What a user can choose about regularisation, for every command that regularises a map.

All regularisers are listed here, Halfmap's own and those of other packages, each by its `Declaration`. An option
belongs to the methods whose prefix it has, and a method gets it without the prefix.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from halfmap.errors import InputError
from halfmap.regularisation.declaration import Declaration, Need
from halfmap.settings.regulariser_options import (
    CutoffOptions,
    LocalFscOptions,
    NonUniformOptions,
    SidesplitterOptions,
    SparseSmoothOptions,
    UniformOptions,
)
from halfmap.settings.regulariser_plugs import cannot_be_used, installed_plugs

if TYPE_CHECKING:
    from halfmap.regularisation.protocol import Regulariser

_LUO, _PUNJANI = "Luo 2021, doi:10.1073/pnas.2013756118", "Punjani 2020, doi:10.1038/s41592-020-00990-8"
_QUARTERS = ("cross-validation needs the two quarter sets of each half set, and RELION hands over whole half sets; "
             "choosing by the two half maps instead would make them agree")
_BOTH = "it looks at both half maps, and what they share would no longer tell anything"

BUILT_IN = (
    Declaration("uniform", "uniform_", UniformOptions, "halfmap.regularisation.wiener:Uniform",
                "Scheres 2012, doi:10.1016/j.jsb.2012.09.006", Need(5, 5, quarters=False), ""),
    Declaration("nonuniform", "nu_", NonUniformOptions, "halfmap.regularisation.nonuniform:NonUniform",
                _PUNJANI, Need(20, 9), _QUARTERS),
    Declaration("cutoff", "cutoff_", CutoffOptions, "halfmap.regularisation.cutoff:Cutoff",
                "Grant 2018, doi:10.7554/eLife.35383", Need(5, quarters=False),
                "RELION's resolution limit does the same already"),
    Declaration("local-fsc", "local_fsc_", LocalFscOptions, "halfmap.regularisation.local_fsc:LocalFsc",
                "Bell 2016, doi:10.1016/j.ymeth.2016.02.018", Need(19, quarters=False), _BOTH),
    Declaration("sidesplitter", "sidesplitter_", SidesplitterOptions,
                "halfmap.regularisation.sidesplitter:Sidesplitter", "Ramlaul 2020, doi:10.1016/j.jsb.2020.107545",
                Need(22, quarters=False), _BOTH),
    Declaration("sparse_smooth", "ss_", SparseSmoothOptions, "halfmap.regularisation.sparse_smooth:SparseSmooth",
                _LUO, Need(20, 9, 30, 1), ""),
    Declaration("joined", "ss_", SparseSmoothOptions, "halfmap.regularisation.sparse_smooth:Joined",
                f"{_PUNJANI}, with {_LUO}", Need(20, 9, 30, 1), _QUARTERS),
)  # fmt: skip
PLUGS = installed_plugs(BUILT_IN)
DECLARED = {one.name: one for one in (*BUILT_IN, *PLUGS.usable)}
REGULARISERS = tuple(DECLARED)
# All names that can be given: those that cannot be used say why.
NAMED = (*REGULARISERS, *(one.name for one in PLUGS.broken if one.name not in DECLARED))
_STRENGTH_CHOSEN = Need(6, 7, 35, 6)  # of sparse_smooth

OF_OTHERS = tuple(name for name in NAMED if name not in {one.name for one in BUILT_IN})
_NEEDED = ("name", "crosses", "solve", "filter_pair")  # of a method, as protocol.py says
_PACKAGE = "regulariser_package"  # in a checkpoint


class _OfPlugs:
    """Settings with options of other packages: those of packages that are not used are neither written nor kept."""

    def left_out(self) -> frozenset[str]:
        """Options of other packages' regularisers that are not chosen, by name."""
        chosen = getattr(self, "regulariser", "")
        return frozenset(f.name for one in PLUGS.usable if one.name != chosen for f in fields(one.options))

    def checkpointed(self) -> dict[str, Any]:
        """The settings as a checkpoint keeps them."""
        values = {f.name: getattr(self, f.name) for f in fields(self)  # type: ignore[arg-type]
                  if f.name not in self.left_out()}
        return values | {_PACKAGE: package_of(values["regulariser"])}

    @classmethod
    def from_checkpoint(cls, **values: Any) -> Any:
        """The settings that were kept so. Raises InputError where the package of their regulariser is not there."""
        own = {name: value for name, value in values.items() if name != _PACKAGE}
        name, package = own["regulariser"], values.get(_PACKAGE, "")
        if package:
            declared = DECLARED.get(name)
            if declared is None:
                raise InputError(f"--regulariser {name}: {_absent(name, package)}")
            known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
            unknown = [one for one in own if one not in known]
            if unknown:
                raise InputError(f"--regulariser {name}: the run was begun with {package}, and {declared.package} has "
                                 f"no option {unknown[0]}; install {package.replace(' ', '==')}")
        return cls(**own)

    @classmethod
    def check_file(cls, path: Path, values: dict[str, Any]) -> None:
        """Raise InputError where a settings file names a regulariser that is not there."""
        name = values.get("regulariser")
        (field,) = (f for f in fields(cls) if f.name == "regulariser")  # type: ignore[arg-type]
        if isinstance(name, str) and name not in field.metadata["choices"]:
            raise InputError(f"{path}: regulariser {name} is none of {', '.join(field.metadata['choices'])}; mend the "
                             "line, or install the package that has it: the head of the file names it")


def _absent(name: str, package: str) -> str:
    """What to do where a package is not there or broken, in words."""
    broken = next((one for one in PLUGS.broken if one.name == name), None)
    if broken is not None:
        return cannot_be_used(broken.package, broken.fault)
    return (f"the run was begun with the package {package}, which is not installed here; install it again: pip install "
            f"{package.replace(' ', '==')}")


@dataclass(frozen=True, kw_only=True)
class _Chosen:
    """The method of regularisation."""

    # By the truth of all simulated sets it is ahead of uniform or level with it (benchmarks/README.md, Regularisers).
    regulariser: str = field(default="nonuniform", metadata={
        "help": "how each half map is regularised between iterations", "choices": NAMED,
        "reference": "; ".join(f"{one.name}: {one.paper}" for one in DECLARED.values())})


def _together(name: str, doc: str, parts: Iterable[type]) -> Any:
    """A settings dataclass with the fields of all parts, those of the first part first."""
    bases = (_OfPlugs, *dict.fromkeys(reversed(list(parts))))
    made = type(name, bases, {"__doc__": doc, "__module__": __name__})
    return dataclass(frozen=True, kw_only=True)(made)


if TYPE_CHECKING:

    class PlugOptions(_OfPlugs):
        """Options of the regularisers of other packages."""

    class OneHalfPlugOptions:
        """Options of those that can work on one half set, without its quarters."""

    @dataclass(frozen=True, kw_only=True)
    class RegulariserOptions(
        _OfPlugs, SparseSmoothOptions, SidesplitterOptions, LocalFscOptions, CutoffOptions, NonUniformOptions, _Chosen
    ):
        """The method of regularisation, and the options of every method."""

else:
    PlugOptions = _together(
        "PlugOptions", "Options of the regularisers of other packages.", (one.options for one in PLUGS.usable))
    OneHalfPlugOptions = _together(
        "OneHalfPlugOptions", "Options of those that can work on one half set, without its quarters.",
        (one.options for one in PLUGS.usable if not one.without_quarters))
    RegulariserOptions = _together(
        "RegulariserOptions", "The method of regularisation, and the options of every method.",
        (_Chosen, *(one.options for one in DECLARED.values())))

Chosen = TypeVar("Chosen", bound=RegulariserOptions)


def package_of(name: str) -> str:
    """Name and version of the package that a regulariser is of; empty for one of Halfmap's own."""
    return DECLARED[name].package if name in DECLARED else ""


def need_of(settings: RegulariserOptions) -> Need:
    """The memory that the chosen method needs."""
    name, chosen = settings.regulariser, settings.ss_parameters in ("cross-validated", "published-code")
    return _STRENGTH_CHOSEN if chosen and name == "sparse_smooth" else DECLARED[name].need


def regulariser_named(name: str, **options: Any) -> Regulariser:
    """The regulariser of this name with these options, all others at their defaults.

    Raises InputError where it is of another package and cannot be used; KeyError for an unknown name.
    """
    declared = DECLARED[name]
    module, _, of_module = declared.method.partition(":")
    if not declared.package:
        made: Regulariser = getattr(import_module(module), of_module)(**options)
        return made
    try:
        method = getattr(import_module(module), of_module)(**options)
        lacking = [one for one in _NEEDED if not hasattr(method, one)]
        if not declared.without_quarters and not hasattr(method, "alone"):
            lacking.append("alone")
        fault = (f"its method has no {lacking[0]}" if lacking else
                 f"its method is named {method.name}" if method.name != name else
                 "" if isinstance(method.crosses, str) and method.crosses else
                 "its method does not say what crosses between half sets")
    except InputError:
        raise
    except Exception as error:  # whatever the code of another package does
        fault = f"{type(error).__name__}: {error}"
    if fault:
        raise InputError(f"--regulariser {name}: {cannot_be_used(declared.package, fault)}")
    from halfmap.regularisation.plugged import Plugged

    return Plugged(method, declared.package)


def regulariser_options(settings: RegulariserOptions) -> dict[str, Any]:
    """The options of the chosen method by name, without the prefix."""
    settings, declared = as_one_name(settings), DECLARED[settings.regulariser]
    return {f.name.removeprefix(declared.prefix): getattr(settings, f.name) for f in fields(declared.options)}


def option_files(settings: object, name: str) -> dict[str, Path]:
    """The files among the options of the named method, by the names of the settings."""
    options = fields(DECLARED[name].options) if name in DECLARED else ()
    named = {f.name: getattr(settings, f.name, None) for f in options}
    return {name: value for name, value in named.items() if isinstance(value, Path)}


def as_one_name(settings: Chosen) -> Chosen:
    """``joined`` and ``sparse_smooth`` with strengths by place are one method: both settings say so, whichever was
    given."""
    if settings.regulariser == "sparse_smooth" and settings.ss_parameters == "local":
        return replace(settings, regulariser="joined")
    if settings.regulariser == "joined" and settings.ss_parameters != "local":
        return replace(settings, ss_parameters="local")
    return settings


def with_regulariser(settings: Chosen, name: str) -> Chosen:
    """The settings with this regulariser. Options that belong to others have their defaults."""
    foreign = {f.name: f.default for f in fields(RegulariserOptions) if f.name.startswith(prefixes_of_others([name]))}
    if name != settings.regulariser and name in ("sparse_smooth", "joined"):
        foreign["ss_parameters"] = RegulariserOptions.ss_parameters
    changed: dict[str, Any] = foreign | {"regulariser": name}
    return as_one_name(replace(settings, **changed))


def prefixes_of_others(names: Iterable[str]) -> tuple[str, ...]:
    """Prefixes of the options that belong to none of the named regularisers."""
    own = {DECLARED[name].prefix for name in names if name in DECLARED}
    return tuple({one.prefix for one in DECLARED.values()} - own)


def check_chosen(settings: object, name: str) -> None:
    """Raise InputError where the regulariser is of another package and cannot be used here, or where an option of
    another package belongs to another regulariser or has the name of one of the command's own."""
    if name not in DECLARED and any(one.name == name for one in PLUGS.broken):
        raise InputError(f"--regulariser {name}: {_absent(name, '')}")
    here = {f.name: f for f in fields(settings)}  # type: ignore[arg-type]
    for one in PLUGS.usable:
        for option in fields(one.options):
            same = here[option.name] is option
            if one.name == name and not same:
                fault = f"its option {option.name} has the name of one of the command's own"
                raise InputError(f"--regulariser {name}: {cannot_be_used(one.package, fault)}")
            if one.name != name and same and getattr(settings, option.name) != option.default:
                raise InputError(_foreign(option.name, one.name, name))


def _foreign(option: str, owner: str, chosen: str) -> str:
    return (f"--{option.replace('_', '-')}: belongs to --regulariser {owner}, and this is {chosen}; leave it out or "
            "change the regulariser")


def check_options(settings: RegulariserOptions) -> None:
    """Raise InputError where an option belongs to another method than the chosen one, or could have no effect, and
    where the method cannot be used."""
    check_chosen(settings, settings.regulariser)
    declared = DECLARED[settings.regulariser]
    for one in BUILT_IN:
        for f in fields(one.options):
            if one.prefix != declared.prefix and getattr(settings, f.name) != f.default:
                raise InputError(_foreign(f.name, one.name, settings.regulariser))
    if settings.regulariser == "cutoff":
        _check_cutoff(settings)
    if settings.regulariser == "joined" and settings.ss_parameters not in ("fixed", "local"):
        raise InputError(f"--ss-parameters {settings.ss_parameters}: --regulariser joined sets the strength of each "
                         "place by its local cut-off; leave it out, or take sparse_smooth")
    chosen = "local" if settings.regulariser == "joined" else settings.ss_parameters
    if chosen != "fixed" and settings.ss_alpha == 0 and settings.ss_beta == 0:
        raise InputError(f"--ss-parameters {chosen}: chooses a factor of --ss-alpha and --ss-beta, and "
                         "both are 0; give one of them")
    finest = settings.nu_finest
    if finest is not None and finest >= settings.nu_coarsest:
        raise InputError(f"--nu-finest {finest:g}: must be finer than --nu-coarsest {settings.nu_coarsest:g} A")


def _check_cutoff(settings: RegulariserOptions) -> None:
    """Raise InputError where options of the resolution limit contradict one another, or one leaves another without
    effect."""
    outside, weight, limit = settings.cutoff_outside, settings.cutoff_weight, settings.cutoff_resolution
    if weight > 1:
        raise InputError(f"--cutoff-weight {weight:g}: must lie between 0 and 1")
    if limit is not None and settings.cutoff_threshold != 0.143:
        raise InputError("--cutoff-threshold: sets the limit, and --cutoff-resolution does so too; leave one out")
    if settings.cutoff_mask is None and (outside is not None or weight != 1):
        name = "outside" if outside is not None else "weight"
        raise InputError(f"--cutoff-{name}: acts outside of a mask, and there is none; name it with --cutoff-mask")
    if settings.cutoff_mask is not None and outside is None and weight == 1:
        raise InputError("--cutoff-mask: changes nothing alone; say with --cutoff-outside or --cutoff-weight what "
                         "is to be done outside of it")
    if outside is not None and weight == 0:
        raise InputError("--cutoff-outside: has no effect, as --cutoff-weight 0 clears what lies outside the mask")
    if outside is not None and limit is not None and outside <= limit:
        raise InputError(f"--cutoff-outside {outside:g}: must be coarser than --cutoff-resolution {limit:g} A, which "
                         "holds everywhere")
