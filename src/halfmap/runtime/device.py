"""Which device a run computes on."""

from __future__ import annotations

import torch

from halfmap.errors import InputError


def device_named(name: str) -> torch.device:
    """The device of that name (auto: a GPU if there is one). Raises InputError where there is no such device."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: no GPU that this torch can use; take --device cpu")
    return torch.device(name)
