"""Which device a run computes on."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from halfmap.errors import InputError

CPU = torch.device("cpu")


# What cuBLAS works in, as NVIDIA says that products repeat with several streams: read once, when it starts.
WORKSPACE = ("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def device_named(name: str, deterministic: bool = False) -> torch.device:
    """The device of that name (auto: a GPU if there is one). Raises InputError where there is no such device.

    deterministic: whether the same work on a GPU is to give the same bits every time, from now on in this process. On
    a CPU it does in any case.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: no GPU that this torch can use; take --device cpu")
    if deterministic and name == "cuda":
        os.environ.setdefault(*WORKSPACE)
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return torch.device(name)


def described(device: torch.device) -> str:
    """A device in words, as a user knows it."""
    if device.type == "cpu":
        return "the CPU"
    gigabytes = torch.cuda.mem_get_info(device)[1] / 1e9
    return f"{torch.cuda.get_device_name(device)} ({gigabytes:.0f} GB)"


def computed_on(device: torch.device) -> list[str]:
    """What a user should know of where a run computes."""
    if device.type == "cpu":
        return ["computing on the CPU: Apple's GPUs are not used"] if torch.backends.mps.is_available() else []
    plain = "" if torch.version.cuda else ", with kernels in plain torch: those of Triton are for NVIDIA's"
    repeats = ", in an order that repeats to the bit" if torch.are_deterministic_algorithms_enabled() else ""
    return [f"computing on {described(device)}{plain}{repeats}"]


def is_real_gpu(device: torch.device) -> bool:
    """Whether there is a GPU behind this device that can be asked, and has streams: a pretended one has none."""
    return device.type == "cuda" and torch.cuda.is_initialized()


def sent(t: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device. Where it goes there from the CPU, for work that is ordered from now on, nobody waits for
    the device.

    It may be changed at once: CUDA has a copy of what can be paged out when this returns. The way back is waited for:
    a tensor of the CPU is read as soon as it is there.
    """
    return t.to(device, non_blocking=t.device.type == "cpu")


def finished(device: torch.device) -> None:
    """Wait until what was begun on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
