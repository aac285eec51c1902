"""A LoraConfig of PEFT with the ranks that an update needs."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from layerscope.errors import UsageError
from layerscope.records.report import Report
from layerscope.rules.model_changes import Changes


def make(report: Report) -> str:
    """Return the ``adapter_config.json`` of a LoRA that can hold the update of a diff.

    The rank of a module is the exact rank of its update if it has one, otherwise the number of directions for 95 % of
    it. ``r`` is the most frequent rank, and ``rank_pattern`` lists the others; ``lora_alpha`` and ``alpha_pattern``
    equal the ranks, so that the scale is 1 everywhere.

    :raises UsageError: no weight matrix changed, or its rank was not measured.
    """
    ranks = ranks_of(report)
    if not ranks:
        raise UsageError("--emit peft needs a changed weight with a measured rank; leave out --no-spectra")
    r = Counter(ranks.values()).most_common(1)[0][0]
    others = {module: rank for module, rank in ranks.items() if rank != r}
    config: dict[str, Any] = {
        "peft_type": "LORA", "task_type": None, "r": r, "lora_alpha": r,
        "target_modules": sorted(ranks), "rank_pattern": others, "alpha_pattern": dict(others),
        "lora_dropout": 0.0, "bias": "none",
    }  # fmt: skip
    return json.dumps(config, indent=2, ensure_ascii=False) + "\n"


def ranks_of(report: Report) -> dict[str, int]:
    """Return module → rank that its update needs."""
    changes, ranks = Changes(report.rows), {}
    for row in changes.changed:
        needed = changes.number(row, "exact_rank") or changes.number(row, "rank_95")
        if needed and row.ref.kind in ("dense", "attention", "embedding", "conv2d", "lora") and row.ref.part is None:
            ranks[row.name.removesuffix(".weight").removesuffix(".lora")] = int(needed)
    return ranks
