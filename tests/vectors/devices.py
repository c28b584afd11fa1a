"""Whether a bundle fits a device."""

from itertools import product
from typing import Any

from runtime.fit import fit, gigabytes

GB = 10**9
CASES = [*product((7_340_000_000, 0), (16 * GB, 8 * GB, 4 * GB), (10 * GB, 6 * GB, 0)),
         (8 * GB, 8 * GB, 8 * GB), (8 * GB + 1, 8 * GB, 8 * GB), (8 * GB, 8 * GB, 8 * GB - 1)]  # fmt: skip
SIZES = [0, 49_999_999, 50_000_000, 949_999_999, 950_000_000, GB, 7_349_999_999, 7_350_000_000, 16 * 2**30]


def devices() -> dict[str, Any]:
    return {
        "about": "limits.minimum_memory and a device's memory in bytes -> fits, tight or too large; bytes -> text.",
        "cases": [{"needed": needed, "total": total, "available": available, "fit": fit(needed, total, available),
                   "numbers": [gigabytes(count) for count in (needed, total, available)]}
                  for needed, total, available in CASES],
        "sizes": [{"bytes": count, "text": gigabytes(count)} for count in SIZES],
    }  # fmt: skip
