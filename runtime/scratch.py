"""Room for more logits than memory should hold: a position of the 12B has a megabyte of them."""

import errno
import os
from tempfile import TemporaryFile, gettempdir

import numpy as np
from numpy.typing import NDArray

from runtime.errors import UserError

WITHOUT = errno.EOPNOTSUPP, errno.EINVAL  # of a file system that reserves nothing


def scratch(rows: int, columns: int) -> NDArray[np.float32]:
    """Zeros [rows, columns] in a nameless temporary file, which goes when the array does.

    Where /tmp is itself memory, TMPDIR names another folder.

    Raises:
        UserError: its disk has no room for them.
    """
    if not rows * columns:
        return np.zeros((rows, columns), np.float32)
    size = rows * columns * np.dtype(np.float32).itemsize
    try:
        with TemporaryFile() as file:
            _reserve(file.fileno(), size)
            return np.memmap(file, np.float32, "w+", shape=(rows, columns))
    except OSError as error:
        raise UserError(f"{gettempdir()} does not take {size / 1e9:.2f} GB of intermediate values ({error.strerror}): "
                        "make room there, or name a folder on another disk with TMPDIR") from None  # fmt: skip


def _reserve(file: int, size: int) -> None:
    """Room on the disk, all of which is written later: a page for which there is none then would end the process."""
    if not hasattr(os, "posix_fallocate"):  # macOS
        return
    try:
        os.posix_fallocate(file, 0, size)
    except OSError as error:
        if error.errno not in WITHOUT:
            raise
