"""Freed memory goes back to the system."""

import os
import platform

import numpy as np
import pytest

from runtime import heap
from runtime.bench.memory import read_memory

BLOCK, COUNT = 2**16, 2**11  # bytes of each, small enough for the heap: 128 MiB


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="others keep less")
def test_what_lies_between_blocks_in_use_is_given_back() -> None:
    def anonymous() -> int:
        return read_memory(os.getpid()).anonymous or 0

    blocks = [np.ones(BLOCK, np.uint8) for _ in range(COUNT)]
    held, kept = anonymous(), blocks[::16]
    del blocks
    assert held - anonymous() < BLOCK * COUNT / 10, "control: freeing alone gives little back"
    heap.trim()
    assert held - anonymous() > BLOCK * COUNT * 0.8 and all(block[-1] for block in kept)
