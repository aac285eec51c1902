"""The recipes of the validity study: which networks are trained, on what, and how."""

from __future__ import annotations

from typing import Any

import numpy as np

Recipe = dict[str, Any]

FAMILIES = ("mlp-mnist", "mlp-fashion", "mlp-digits", "cnn-mnist", "cnn-fashion", "cnn-digits",
            "transformer-text", "transformer-fashion")  # fmt: skip
OPTIMIZERS = ("sgd", "adam", "adamw", "muon")
LEARNING_RATES = {"sgd": 0.05, "adam": 1e-3, "adamw": 1e-3, "muon": 0.02}
RATE_FACTORS = (0.03, 0.3, 1, 1, 1, 1, 3, 10, 40)  # most runs use a rate that works
LABEL_NOISE = (0, 0, 0, 0, 0.2, 0.4, 1.0)
WEIGHT_DECAY = {"sgd": (0, 0, 5e-4, 5e-3, 5e-2), "adam": (0, 0, 1e-4, 1e-3), "adamw": (0, 0.01, 0.1, 1.0),
                "muon": (0, 0.01, 0.1, 1.0)}  # fmt: skip
BATCHES = (16, 32, 64, 128, 256)
SCHEDULES = ("constant", "constant", "cosine")
SIZES = {"mlp": (300, 1000, 4000, 16000), "cnn": (300, 1000, 4000, 12000), "transformer": (500, 2000, 8000)}
MOST_OPERATIONS = 6e11  # of one training: about 30 seconds on one core
STEPS = {"mlp": (400, 1500, 4000), "cnn": (300, 700, 1500), "transformer": (400, 800, 1600)}
WIDTHS = {"mlp": (64, 128, 256, 512), "cnn": (32, 48, 64), "transformer": (64, 96, 128)}
DEPTHS = {"mlp": (2, 3, 4, 6), "cnn": (2, 3), "transformer": (1, 2, 3)}
RUNS, REPEATED_RECIPES, SEEDS = 40, 1, 6  # per family: random recipes, recipes repeated over seeds, seeds of each


def all_recipes() -> list[Recipe]:
    """Return every recipe of the study: random ones, then some good ones repeated over seeds."""
    cases = []
    for number, family in enumerate(FAMILIES):
        rng = np.random.default_rng([1, number])
        cases += [{**draw(rng, family), "seed": 1000 * number + run} for run in range(RUNS)]
        for repeated in range(REPEATED_RECIPES):
            recipe = draw(rng, family) | {"rate_factor": 1, "label_noise": 0, "weight_decay": 0}
            cases += [{**recipe, "seed": 100_000 + 1000 * number + 10 * repeated + seed} for seed in range(SEEDS)]
    order = np.random.default_rng(0).permutation(len(cases))  # an interrupted study has runs of every family
    return [cases[place] for place in order]


def draw(rng: np.random.Generator, family: str) -> Recipe:
    """Draw one recipe of a family whose training is not too long."""
    while operations(recipe := _draw(rng, family)) > MOST_OPERATIONS:
        pass
    return recipe


def operations(recipe: Recipe) -> float:
    """Estimate the operations of a training: six for each weight, position and example."""
    kind, w, d = recipe["family"].partition("-")[0], recipe["width"], recipe["depth"]
    by_kind = {"mlp": 784 * w + d * w * w, "cnn": 49 * 9 * w + 16 * 9 * (2 * w * w + 4 * (d - 1) * w * w),
               "transformer": 2 * 32 * 12 * d * w * w}  # fmt: skip
    return float(6 * by_kind[kind] * recipe["batch"] * recipe["steps"])


def _draw(rng: np.random.Generator, family: str) -> Recipe:
    kind = family.partition("-")[0]
    optimizer = str(rng.choice(OPTIMIZERS))
    recipe: Recipe = {
        "family": family, "optimizer": optimizer, "rate_factor": float(rng.choice(RATE_FACTORS)),
        "batch": int(rng.choice(BATCHES)), "weight_decay": float(rng.choice(WEIGHT_DECAY[optimizer])),
        "label_noise": float(rng.choice(LABEL_NOISE)), "schedule": str(rng.choice(SCHEDULES)),
        "examples": int(rng.choice(SIZES[kind])), "steps": int(rng.choice(STEPS[kind])),
        "width": int(rng.choice(WIDTHS[kind])), "depth": int(rng.choice(DEPTHS[kind])),
        "norm": bool(rng.integers(2)),
    }  # fmt: skip
    if family.endswith("digits"):
        recipe["examples"] = min(recipe["examples"], 1000)
    return recipe
