"""Load the page template and pack untrusted data for it.

Everything that comes from a model is untrusted: it reaches the page through the template's escaping, or as JSON that a
script turns into text nodes. The content security policy of the page allows only its own script and style.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

TEMPLATES = Path(__file__).parent.parent / "templates"


def pack_lines(lines: Iterable[Mapping[str, Any]]) -> str:
    """Encode objects as gzipped, base64-encoded JSON lines, which the page unpacks when it is opened."""
    text = "\n".join(json.dumps(x, allow_nan=False, ensure_ascii=False, separators=(",", ":")) for x in lines)
    return base64.b64encode(gzip.compress(text.encode("utf-8", "replace"), 6, mtime=0)).decode("ascii")


@cache
def load_template() -> Any:
    """Return the Jinja template of the page, with autoescaping."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    return environment.get_template("page.html.j2")


@cache
def read_template(name: str) -> str:
    """Read a script or style sheet from the templates folder."""
    return (TEMPLATES / name).read_text("utf-8")


def content_hash(text: str) -> str:
    """Return the hash that the content security policy lists for an inline script or style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
