"""JSON from files of unknown origin, bounded in size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerscope.sources.storage.extents import whole

if TYPE_CHECKING:
    pass


MOST_PARTS = 1 << 22  # of a JSON text


def parsed(path: Path, longest: int) -> Any:
    """A small JSON file.

    :raises ValueError: it is none, or larger or of more parts than any model's.
    """
    raw = whole(path).read(0, longest + 1)
    if len(raw) > longest:
        raise ValueError(f"more than {longest:,} bytes")
    return parse(raw)


def parse(raw: bytes | str) -> Any:
    """JSON from a stranger: what would become more objects than any model has is not built.

    :raises ValueError: it is no JSON, or of more parts than any model's.
    """
    raw = raw.encode("utf-8", "surrogatepass") if isinstance(raw, str) else raw
    if raw.count(b"[") + raw.count(b"{") + raw.count(b",") > MOST_PARTS:
        raise ValueError(f"more than {MOST_PARTS:,} parts")
    return json.loads(raw.decode("utf-8"))
