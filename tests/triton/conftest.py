"""Triton's interpreter runs its kernels on tensors of the CPU, in every process that collects these tests.

Triton reads the variable when its kernels are defined. Tests are collected before any runs, and nothing imports Triton
at collection but the tests here, which comes after this file. Other rooms and the programs they start do not use it.
"""

import os

os.environ["TRITON_INTERPRET"] = "1"
