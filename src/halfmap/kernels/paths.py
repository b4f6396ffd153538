"""Which implementation of a kernel runs: Numba's on the CPU, Triton's on a GPU it compiles for, else plain torch.

Triton's interpreter runs the same kernels on tensors of the CPU, which is how they are tested where there is no GPU.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

from halfmap.kernels import reference
from halfmap.runtime.device import is_real_gpu

# Kernels that Triton has, and the module of each. They take what the function of that name in plain torch takes.
TRITON = {
    "best_shift": "triton_points",
    "descent_sums": "triton_proximal",
    "distinct_peaks": "triton_points",
    "insert_samples_": "triton_insertion",
    "keep_best_": "triton_points",
    "project_slices": "triton_slices",
    "proximal_step": "triton_proximal",
    "refine_poses": "triton_poses",
    "residual_sums": "triton_residuals",
    "score_block": "triton_search",
    "slope_sums": "triton_slopes",
}
PLAIN = "HALFMAP_PLAIN_KERNELS"  # in the environment: a GPU takes plain torch
LEAST_MAJOR = 7  # compute capability of NVIDIA's devices that Triton compiles for


def elsewhere(name: str, device: torch.device, plain: ModuleType = reference) -> Callable[..., Any]:
    """The kernel of that name for a device that is not the CPU. plain: the module that has it in plain torch."""
    if name in TRITON and compiled_by_triton(device):
        return getattr(importlib.import_module(f"halfmap.kernels.{TRITON[name]}"), name)
    return getattr(plain, name)


def compiled_by_triton(device: torch.device) -> bool:
    """Whether Triton's kernels run on this device: AMD's, which torch calls cuda too, take plain torch."""
    if not is_real_gpu(device) or torch.version.cuda is None or os.environ.get(PLAIN):
        return False
    if importlib.util.find_spec("triton") is None:
        return False
    return torch.cuda.get_device_capability(device)[0] >= LEAST_MAJOR
