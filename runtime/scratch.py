"""Room for more logits than memory should hold: a position of the 12B has a megabyte of them."""

from tempfile import TemporaryFile

import numpy as np
from numpy.typing import NDArray


def scratch(rows: int, columns: int) -> NDArray[np.float32]:
    """Zeros [rows, columns] in a nameless temporary file, which goes when the array does.

    Where /tmp is itself memory, TMPDIR names another folder.
    """
    if not rows:
        return np.zeros((0, columns), np.float32)
    with TemporaryFile() as file:
        return np.memmap(file, np.float32, "w+", shape=(rows, columns))
