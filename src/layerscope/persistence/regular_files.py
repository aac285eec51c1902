"""Open files that must be regular ones: opening a pipe or a device could wait for ever."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import IO

from layerscope.errors import Unreadable


def open_regular(path: str | Path) -> IO[bytes]:
    """Open a regular file for reading, without waiting.

    :raises Unreadable: the path is a pipe, a device or a folder, or cannot be opened.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)
    except (OSError, ValueError) as error:
        raise Unreadable(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Unreadable(f"{path} is a pipe, a device or a folder, and only regular files are read")
    return os.fdopen(descriptor, "rb")
