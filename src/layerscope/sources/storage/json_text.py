"""Read JSON from untrusted files, with a limit on its size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from layerscope.sources.storage.extents import whole_file

MAX_JSON_PARTS = 1 << 22  # brackets, braces and commas in one text


def read_json(path: Path, max_bytes: int) -> Any:
    """Read a small JSON file.

    :raises ValueError: the file is not JSON, exceeds ``max_bytes`` bytes, or has more than ``MAX_JSON_PARTS`` parts.
    """
    raw = whole_file(path).read(0, max_bytes + 1)
    if len(raw) > max_bytes:
        raise ValueError(f"the JSON exceeds {max_bytes:,} bytes")
    return parse_json(raw)


def parse_json(raw: bytes | str) -> Any:
    """Parse untrusted JSON; a text that would create too many objects is rejected first.

    :raises ValueError: the text is not JSON, or has more than ``MAX_JSON_PARTS`` parts.
    """
    raw = raw.encode("utf-8", "surrogatepass") if isinstance(raw, str) else raw
    if raw.count(b"[") + raw.count(b"{") + raw.count(b",") > MAX_JSON_PARTS:
        raise ValueError(f"the JSON has more than {MAX_JSON_PARTS:,} parts")
    return json.loads(raw.decode("utf-8"))
