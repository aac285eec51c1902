"""Real networks under every option: nothing fails, nothing is lost on the way through a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import layerscope
from layerscope.errors import Unreadable
from tests.conftest import SHARED

OPTIONS: list[dict[str, Any]] = [
    {"randomize": True, "vectors": True, "window": 8, "evidence": True, "bootstrap": 5},
    {"conv": "flat", "randomize": True}, {"pool": False, "randomize": True}, {"inverse": True}, {"intra": True},
    {"stacked": True, "randomize": True}, {"fix_fingers": "clip_xmax"}, {"fix_fingers": "xmin_peak"}, {"drop_top": 2},
    {"min_evals": 8, "max_evals": 60}, {"fits": ("mp_kde", "power_law")},
]  # fmt: skip
FILES = [path for name in ("fer_mini_xception", "arm_kws") for path in sorted((SHARED / "models" / name).glob("*"))]


@pytest.mark.parametrize("path", FILES or [Path("none")], ids=lambda path: path.stem)
def test_a_training_run_and_seven_designs_under_every_option(shared: Path, path: Path) -> None:
    run = [each for each in FILES if each.parent == path.parent]
    is_checkpoint = path.parent.name == "fer_mini_xception" and path != run[0]  # of one run: each takes a third of them
    for options in OPTIONS[run.index(path) % 3 :: 3] if is_checkpoint else OPTIONS:
        try:
            report = layerscope.analyze(path, **options)
        except Unreadable:
            assert "intra" in options  # no two layers of it follow each other
            continue
        assert not [(row.name, row.skipped) for row in report.rows if row.failed]
        again = layerscope.Report.from_json(report.to_json())
        assert [row.metrics for row in again.rows] == [row.metrics for row in report.rows]
        assert again.findings == report.findings
    base = FILES[0] if path.parent == FILES[0].parent else None
    if base is not None and base != path:
        assert not any(row.failed for row in layerscope.analyze(path, base=base).rows)
        assert layerscope.compare(base, path).reading
