"""Write files atomically: a file is either complete or not written at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from layerscope.errors import OutputError


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write a file next to the target, then rename it; write to a device or pipe directly.

    :raises OutputError: the folder is missing, or permission or disk space is lacking; an existing file is unchanged.
    """
    target = Path(path)
    scratch: str | None = None
    try:
        if target.exists() and not target.is_file():
            with target.open("wb") as file:
                file.write(content)
            return
        target = target.resolve()
        # a random name: threads, other machines on a shared disk and leftovers of dead processes have others
        name = str(target.parent / f".{target.name[:50]}.{secrets.token_hex(8)}.part")
        descriptor = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        scratch = name
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            os.chmod(scratch, target.stat().st_mode & 0o777)
        os.replace(scratch, target)
    except OSError as error:
        if scratch is not None:
            with contextlib.suppress(OSError):
                os.unlink(scratch)
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from None


def check_writable(path: str | Path) -> None:
    """Check that a file can be written, so that a long run does not fail at its end.

    :raises OutputError: the folder is missing or not writable, or the path is itself a folder.
    """
    try:
        target = Path(path)
        folder = target.resolve().parent
        target.exists()
    except (OSError, ValueError, RuntimeError) as error:
        raise OutputError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from None
    if target.is_dir():
        raise OutputError(f"cannot write {path}: it is a folder; give the path of a file")
    if not folder.is_dir():
        raise OutputError(f"cannot write {path}: the folder {folder} does not exist")
    if not os.access(target if target.exists() else folder, os.W_OK):
        raise OutputError(f"cannot write {path}: permission denied")
