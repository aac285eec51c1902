"""Packages that single tests need."""

from __future__ import annotations

from typing import Any

import pytest


def require(name: str) -> Any:
    """Import an optional module; without it the test, or the whole module, is skipped and says how to install it."""
    return pytest.importorskip(name, reason=f"{name.partition('.')[0]} is not installed: make test does it")
