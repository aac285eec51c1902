"""Paths in fsspec stores (``s3://``, ``gs://``, ``hf://``), whose servers must answer in bounded time."""

from __future__ import annotations

from typing import Any

CONNECT_SECONDS, READ_SECONDS, ATTEMPTS = 10, 10, 2  # of one request; s3fs repeats it itself

_S3 = {
    "connect_timeout": CONNECT_SECONDS,
    "read_timeout": READ_SECONDS,
    "retries": {"total_max_attempts": 1},
}  # s3fs repeats too
_AZURE = {"connection_timeout": CONNECT_SECONDS, "read_timeout": READ_SECONDS}
_GOOGLE = {"requests_timeout": READ_SECONDS}
OPTIONS_BY_PROTOCOL: dict[str, dict[str, Any]] = {
    "s3": {"config_kwargs": _S3}, "s3a": {"config_kwargs": _S3}, "gs": _GOOGLE, "gcs": _GOOGLE,
    "abfs": _AZURE, "abfss": _AZURE, "az": _AZURE, "adl": _AZURE,
}  # fmt: skip


def store_path(url: str) -> Any:
    """Return the path of a URL, whose store has time limits where its package accepts them.

    :raises ImportError: universal_pathlib, or the package of this store, is not installed.
    :raises ValueError: no store has this protocol.
    """
    from upath import UPath

    path = UPath(url, **OPTIONS_BY_PROTOCOL.get(url.partition("://")[0].lower(), {}))
    if hasattr(path.fs, "retries"):
        path.fs.retries = ATTEMPTS
    return path
