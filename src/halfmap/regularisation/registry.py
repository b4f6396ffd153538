"""All regularisers by name. A new method is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from halfmap.regularisation.cutoff import Cutoff
from halfmap.regularisation.local_fsc import LocalFsc
from halfmap.regularisation.nonuniform import NonUniform
from halfmap.regularisation.protocol import Regulariser
from halfmap.regularisation.sidesplitter import Sidesplitter
from halfmap.regularisation.sparse_smooth import SparseSmooth
from halfmap.regularisation.wiener import Uniform

REGULARISERS: dict[str, Callable[..., Regulariser]] = {
    "uniform": Uniform,
    "nonuniform": NonUniform,
    "cutoff": Cutoff,
    "local-fsc": LocalFsc,
    "sidesplitter": Sidesplitter,
    "sparse_smooth": SparseSmooth,
}


def regulariser_named(name: str, **options: Any) -> Regulariser:
    """The regulariser of this name with these options, all others at their defaults; KeyError for an unknown name."""
    return REGULARISERS[name](**options)
