"""Numbers with units, as people read them."""

UNITS = "B", "kB", "MB", "GB", "TB"


def size(count: float) -> str:
    """Of bytes, in decimal units with three digits."""
    unit = 0
    while abs(count) >= 999.5 and unit < len(UNITS) - 1:
        count, unit = count / 1e3, unit + 1
    return f"{count:.3g} {UNITS[unit]}"
