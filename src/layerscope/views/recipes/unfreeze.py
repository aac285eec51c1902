"""The list of parameters that changed, as axolotl's ``unfrozen_parameters`` takes it."""

from __future__ import annotations

import json
import re

from layerscope.records.report import Report
from layerscope.rules.model_changes import Changes


def make(report: Report) -> str:
    """Return YAML with one regular expression per changed parameter; all others can stay frozen."""
    names = [row.ref.tensor or row.name for row in Changes(report.rows).changed]
    lines = [f"  - {json.dumps('^' + re.escape(name) + '$', ensure_ascii=False)}" for name in dict.fromkeys(names)]
    return "unfrozen_parameters:\n" + "".join(f"{line}\n" for line in lines) if lines else "unfrozen_parameters: []\n"
