"""Pages that the tests of the file and those of the browser share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layerscope
from layerscope.demo import NETWORKS
from layerscope.report import Report
from tests.samples import HOSTILE
from tests.views.pages import dated, deep


@pytest.fixture(scope="session")
def page_report() -> Report:
    found = layerscope.analyze(NETWORKS[1], randomize=True)
    return dated(found)


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory, page_report: Report) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    rng = np.random.default_rng(2)
    hostile = layerscope.analyze(
        {name: rng.standard_normal((60, 55)) * rng.pareto(1.0, 55) for name in HOSTILE}, randomize=True
    )
    found: dict[str, Any] = {
        "report": page_report,
        "comparison": layerscope.compare(*(dated(layerscope.analyze(path)) for path in NETWORKS)),
        "hostile": hostile,
        "hostile comparison": layerscope.compare(hostile, hostile),
        "100": deep(100, randomize=True),
        "1000": deep(1000, randomize=True),
        "empty": layerscope.analyze({"b.bias": np.ones(3)}),
    }
    for name, each in found.items():
        each.html(folder / f"{name}.html")
    return {name: folder / f"{name}.html" for name in found}
