"""Train the networks of the validity study, and measure what the verdicts are worth.

    PYTHONPATH=benchmarks python -m validity train --weights FOLDER [--engine processes]

An interrupted run continues where it stopped.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from tqdm import tqdm

from layerscope.experiments import repeated_runs
from validity.recipes import all_recipes
from validity.training import measure

HERE = Path(__file__).resolve().parent
SHARED = Path(os.environ.get("LAYERSCOPE_SHARED", HERE.parent.parent.parent / "shared")) / "data" / "data"


def main() -> None:
    """Train every recipe that has no outcome yet."""
    parser = argparse.ArgumentParser(prog="validity", description=__doc__.partition("\n")[0])
    parser.add_argument("stage", choices=["train"])
    parser.add_argument("--weights", type=Path, default=HERE / "weights", help="Folder for the trained weights.")
    parser.add_argument("--engine", help="Engine that runs the trainings, such as processes; default: one by one.")
    parser.add_argument("--first", type=int, help="Train only so many of the recipes.")
    options = parser.parse_args()
    options.weights.mkdir(parents=True, exist_ok=True)
    folders = {
        "mnist": str(SHARED / "mnist"), "fashion": "/usr/share/datasets/fashion-mnist",
        "text": str(SHARED / "text" / "tinyshakespeare.txt"), "weights": str(options.weights),
    }  # fmt: skip
    recipes = all_recipes()[: options.first]
    with tqdm(total=len(recipes), unit="net") as bar:
        repeated_runs.run(measure, folders, recipes, engine=options.engine,
                          store=options.weights / "outcomes.json",
                          progress=lambda done, _: bar.update(done - bar.n))  # fmt: skip


if __name__ == "__main__":
    main()
