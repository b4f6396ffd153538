"""What a user can choose about regularisation: shared by every command that regularises a map.

An option belongs to the method whose prefix it carries, and a method gets its options without the prefix.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from halfmap.errors import InputError

# Method -> prefix of its options.
PREFIXES = {
    "uniform": "uniform_", "nonuniform": "nu_", "cutoff": "cutoff_", "local-fsc": "lf_", "sidesplitter": "split_",
}  # fmt: skip
REGULARISERS = tuple(PREFIXES)

_NONUNIFORM = "non-uniform refinement (--regulariser nonuniform)"


@dataclass(frozen=True, kw_only=True)
class RegulariserOptions:
    """The method, and the options of each method."""

    regulariser: str = field(default="uniform", metadata={
        "help": "how each half map is regularised between iterations", "choices": REGULARISERS,
        "reference": "uniform: Scheres 2012, doi:10.1016/j.jsb.2012.09.006; nonuniform: Punjani 2020, "
                     "doi:10.1038/s41592-020-00990-8"})


def regulariser_options(settings: RegulariserOptions) -> dict[str, Any]:
    """The options of the chosen method by their names without prefix."""
    prefix = PREFIXES[settings.regulariser]
    return {f.name.removeprefix(prefix): getattr(settings, f.name) for f in fields(settings)
            if f.name.startswith(prefix)}


def check_options(settings: RegulariserOptions) -> None:
    """Raise InputError where an option was set that belongs to a method other than the chosen one."""
    for f in fields(settings):
        owner = next((name for name, prefix in PREFIXES.items() if f.name.startswith(prefix)), settings.regulariser)
        if owner != settings.regulariser and getattr(settings, f.name) != f.default:
            raise InputError(f"--{f.name.replace('_', '-')}: belongs to --regulariser {owner}, and this is "
                             f"{settings.regulariser}; leave it out or change the regulariser")
