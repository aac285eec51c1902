"""Pages that the tests of the file and those of the browser share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layerscope
from layerscope.demo import NETWORKS
from layerscope.records.report import Report
from tests.requirements import require
from tests.samples import HOSTILE
from tests.views.pages import Watched, dated, deep


@pytest.fixture(scope="session")
def page_report() -> Report:
    found = layerscope.analyze(NETWORKS[1], randomize=True)
    return dated(found)


def learned() -> dict[str, Any]:
    """A run and the basins of a few networks, where torch is."""
    try:
        import torch
    except ImportError:
        return {}
    torch.manual_seed(0)
    make = lambda: torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))  # noqa: E731
    data = torch.randn(50, 6), torch.randint(3, (50,))
    monitor = layerscope.ConditioningMonitor(
        make(), data, every=1, exact=True, curvature_of="hessian", name="<b>run</b>"
    )
    for _ in range(3):
        monitor.step()
    models = {name: make() for name in (*list(HOSTILE)[:2], "third")}
    evaluate = layerscope.TorchEvaluator(next(iter(models.values())), data)
    return {"run": monitor.history, "basins": layerscope.basins(models, evaluate, points=5)}


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
        "1000": deep(1000),
        "empty": layerscope.analyze({"b.bias": np.ones(3)}),
    }
    found |= learned() | flat()
    for name, each in found.items():
        each.html(folder / f"{name}.html")
    return {name: folder / f"{name}.html" for name in found}


def flat() -> dict[str, Any]:
    """A plane with holes, and an experiment."""
    from layerscope.experiments.outcome import Claim, Outcome, Table
    from layerscope.views.page.writing import write_page
    from layerscope.views.plots import landscape_pictures

    def bowl(weights: Any) -> dict[str, float]:
        far = float(np.square(weights["w"]).sum())
        return {"loss": far if far < 4 else float("nan"), "accuracy": 1 / (1 + far)}

    a, b, c = ({"w": np.array(row)} for row in ([0.0, 0.0, 0.0], [1.0, 0.0, 0.2], [0.4, 1.0, 0.0]))
    names = (next(iter(HOSTILE)), "B", "C")
    plane = layerscope.plane(a, b, c, bowl, u=(-0.5, 1.5, 9), v=(-0.5, 1.5, 9), names=names)

    class Page:
        """What has no method of its own for it."""

        def html(self, path: Path) -> None:
            write_page(plane, path)

    rng = np.random.default_rng(0)
    with layerscope.Monitor({}, budget=None, name=names[0]) as monitor:
        for step in range(4):
            monitor.step(
                model={f"{name}.weight": rng.standard_normal((80, 70)) for name in HOSTILE}, loss=1 / (1 + step)
            )
        history = monitor.history
    table = Table("Numbers", ("rate", "here", "published"), ((0.1, 0.25, 0.2471), (0.01, None, "–")))
    claims = Claim("F1", "it falls", "2 → 1", True), Claim("F2", next(iter(HOSTILE)), "no", False)
    pictures = (landscape_pictures.plane_picture(plane), landscape_pictures.surface_picture(plane))
    outcome = Outcome("rates", list(HOSTILE)[1], 0, claims, {}, 3.0, (table,), pictures)
    return {"plane": Page(), "experiment": outcome, "watched": history}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser; without one the tests skip, and with ``LAYERSCOPE_BROWSER=1``, as in CI, they fail."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        if os.environ.get("LAYERSCOPE_BROWSER"):
            pytest.fail("no chromium on PATH")
        pytest.skip("no chromium on PATH: make browser installs it")
    playwright = require("playwright.sync_api")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def watched(chromium: Any) -> Iterator[Watched]:
    page = chromium.new_page(viewport={"width": 1280, "height": 900})
    found = Watched(page)
    yield found
    page.close()
    assert found.wrong == []
    assert len(found.asked) <= 1  # the file itself, whatever was clicked
