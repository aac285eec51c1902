"""What the tests of the HTML page are about, and what stands in a file of one."""

from __future__ import annotations

import base64
import gzip
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

import layerscope
from layerscope.records.report import Report


def deep(count: int, **options: Any) -> Report:
    """A net of so many layers with tails of all kinds, of which every tenth has one wrong weight."""
    rng = np.random.default_rng(3)
    weights = {
        f"model.layers.{i}.self_attn.o_proj.weight": (
            rng.standard_normal((128, 100)) * rng.pareto(1.2 + 3 * i / count, 100) ** 0.5
        ).astype(np.float32)
        for i in range(count)
    }
    for name in list(weights)[7::10]:
        weights[name] = rng.standard_normal((128, 100)).astype(np.float32)
        weights[name][3, 4] = 40
    return layerscope.analyze(weights, **options)


def dated(found: Report) -> Report:
    meta = {
        **found.meta,
        "started": "2024-01-01T00:00:00+00:00",
        "seconds": 0.1,
        "target": Path(found.meta["target"]).name,
    }
    return found.replace(meta=meta)


def data_of(path: Path) -> list[dict[str, Any]]:
    packed = re.search(r'id="page-data">([^<]*)<', path.read_text("utf-8"))
    assert packed is not None
    return [json.loads(line) for line in gzip.decompress(base64.b64decode(packed[1])).decode().split("\n")]


class Watched:
    """A page that remembers what it should never have done."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.wrong: list[str] = []
        self.asked: list[str] = []
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.on("console", lambda said: self.wrong.append(said.text) if said.type in ("error", "warning") else None)
        page.on("dialog", lambda dialog: (self.wrong.append(f"dialog {dialog.message}"), dialog.dismiss()))

    def open(self, path: Path) -> Any:
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("[data-charts] figure")
        assert self.asked == [path.as_uri()]
        return self.page
