"""Train the networks of the validity study, and count what the verdicts say about them and about other models.

    PYTHONPATH=benchmarks python -m validity train --weights FOLDER [--engine processes]
    PYTHONPATH=benchmarks python -m validity measure --weights FOLDER [--workers N]
    PYTHONPATH=benchmarks python -m validity public FILE…
    PYTHONPATH=benchmarks python -m validity page
    PYTHONPATH=benchmarks python -m validity judge --weights FOLDER
    PYTHONPATH=benchmarks python -m validity sound FILE… [--randomize]
    PYTHONPATH=benchmarks python -m validity plant FILE…

An interrupted training continues where it stopped.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from tqdm import tqdm

from layerscope.experiments import repeated_runs
from validity import measuring, page, verdicts
from validity.recipes import all_recipes
from validity.training import measure

HERE = Path(__file__).resolve().parent
SHARED = Path(os.environ.get("LAYERSCOPE_SHARED", HERE.parent.parent.parent / "shared")) / "data" / "data"


def main() -> None:
    """Run one stage."""
    parser = argparse.ArgumentParser(prog="validity", description=__doc__.partition("\n")[0])
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("files", type=Path, nargs="*", help="Model files, for the stages sound and plant.")
    parser.add_argument("--weights", type=Path, default=HERE / "weights", help="Folder for the trained weights.")
    parser.add_argument("--engine", help="Engine that runs the trainings, such as processes; default: one by one.")
    parser.add_argument("--workers", type=int, default=2, help="Number of processes that measure.")
    parser.add_argument("--first", type=int, help="Number of recipes to train; default: all.")
    parser.add_argument("--randomize", action="store_true", help="Compare each layer with shuffles of its weights.")
    options = parser.parse_args()
    for line in STAGES[options.stage](options):
        print(line, flush=True)


def train(options: argparse.Namespace) -> Iterable[str]:
    """Train every recipe that has no outcome yet."""
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
    return [f"{len(recipes)} nets are trained"]


STAGES: dict[str, Callable[[argparse.Namespace], Iterable[str]]] = {
    "train": train,
    "measure": lambda options: measuring.measure_all(options.weights, options.workers),
    "public": lambda options: verdicts.write_public(options.files),
    "page": lambda _: page.write(HERE.parent.parent / "docs" / "validity.md"),
    "judge": lambda options: verdicts.judge_outcomes(options.weights),
    "sound": lambda options: verdicts.judge_files(options.files, randomize=options.randomize),
    "plant": lambda options: verdicts.plant_faults(options.files),
}


if __name__ == "__main__":
    main()
