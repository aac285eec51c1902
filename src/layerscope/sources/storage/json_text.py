"""JSON from files of unknown origin, bounded in size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from layerscope.sources.storage.extents import whole_file

MAX_JSON_PARTS = 1 << 22  # of a JSON text


def read_json(path: Path, max_bytes: int) -> Any:
    """A small JSON file.

    :raises ValueError: it is none, or larger or of more parts than any model's.
    """
    raw = whole_file(path).read(0, max_bytes + 1)
    if len(raw) > max_bytes:
        raise ValueError(f"more than {max_bytes:,} bytes")
    return parse_json(raw)


def parse_json(raw: bytes | str) -> Any:
    """JSON from a stranger: what would become more objects than any model has is not built.

    :raises ValueError: it is no JSON, or of more parts than any model's.
    """
    raw = raw.encode("utf-8", "surrogatepass") if isinstance(raw, str) else raw
    if raw.count(b"[") + raw.count(b"{") + raw.count(b",") > MAX_JSON_PARTS:
        raise ValueError(f"more than {MAX_JSON_PARTS:,} parts")
    return json.loads(raw.decode("utf-8"))
