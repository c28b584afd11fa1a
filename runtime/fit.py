"""Whether a bundle fits the memory of a device, asked before anything of it is loaded."""

from typing import Literal

Fit = Literal["fits", "tight", "too large"]


def fit(needed: int, total: int, available: int) -> Fit:
    """`tight`: other programs must give up memory first, or the system ends this one. Loading is never forbidden.

    Args:
        needed: the manifest's `limits.minimum_memory`.
        total, available: bytes of the device, and of them those that a program may still take.
    """
    if needed > total:
        return "too large"
    return "tight" if needed > available else "fits"


def gigabytes(count: int) -> str:
    """Bytes as `7.3 GB`, in decimal units, halves upwards."""
    whole, tenth = divmod((count + 50_000_000) // 100_000_000, 10)
    return f"{whole}.{tenth} GB"
