"""Write the table of baselines that ships with layerscope: simulated untrained layers, and healthy models.

    python scripts/baselines.py FILES… [--study FOLDER]

FILES are healthy models. FOLDER holds the weights of the validity study (benchmarks/validity); its good networks give
the usual ranges by optimizer. Rows of untrained layers that the table has already are kept.
"""

import argparse
import json
from pathlib import Path

from tqdm import tqdm

import layerscope
from layerscope.baseline_making import healthy_rows, untrained_rows
from layerscope.baseline_tables import FORMAT, from_dict
from layerscope.errors import LayerscopeError

TABLE = Path(__file__).resolve().parent.parent / "src" / "layerscope" / "data" / "baselines.json"
GOOD_ACCURACY, GOOD_GAP = 0.9, 0.12  # of the best test accuracy in the family; training minus test accuracy


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--study", type=Path)
    options = parser.parse_args()
    table = json.loads(TABLE.read_text("utf-8")) if TABLE.exists() else {"format": FORMAT, "sources": [], "healthy": []}
    if "untrained" not in table:
        table["untrained"] = list(tqdm(untrained_rows(), desc="untrained"))
        write(table)
    if options.files:
        reports, names = [], []
        for file in tqdm(options.files, desc="healthy"):
            try:
                reports.append(layerscope.analyze(file, randomize=True))
                names.append("/".join(file.parts[-3:]))
            except LayerscopeError as error:
                print(error)
        table["healthy"] = [row for row in table["healthy"] if row["optimizer"]] + healthy_rows(reports, "")
        table["sources"] = names
        write(table)
    if options.study:
        rows = [row for row in table["healthy"] if not row["optimizer"]]
        for optimizer, files in good_networks(options.study).items():
            reports = [layerscope.analyze(file) for file in tqdm(files, desc=optimizer)]
            rows += healthy_rows(reports, optimizer)
        table["healthy"] = rows
        write(table)


def write(table: dict) -> None:
    """Write the table, one row per line."""
    from_dict(table)
    parts = [f"{json.dumps(key)}: {json.dumps(table[key])}" for key in ("format", "sources")]
    for key in ("healthy", "untrained"):
        rows = ",\n".join(json.dumps(row, ensure_ascii=False) for row in table[key])
        parts.append(f"{json.dumps(key)}: [\n{rows}\n]")
    TABLE.write_text("{" + ",\n".join(parts) + "}\n", "utf-8")


def good_networks(folder: Path) -> dict[str, list[Path]]:
    """Return the last weights of the study's good networks, by optimizer."""
    import sys

    sys.path.insert(0, str(TABLE.parents[3] / "benchmarks"))
    from validity.training import key

    stored = json.loads((folder / "outcomes.json").read_text("utf-8"))["done"]
    nets = [(json.loads(text.partition(" ")[2]), result["checks"][-1]) for text, result in stored.items()]
    best: dict[str, float] = {}
    for recipe, last in nets:
        best[recipe["family"]] = max(best.get(recipe["family"], 0.0), last["test_accuracy"])
    good: dict[str, list[Path]] = {}
    for recipe, last in nets:
        gap = last["train_accuracy"] - last["test_accuracy"]
        if last["test_accuracy"] >= GOOD_ACCURACY * best[recipe["family"]] and gap < GOOD_GAP:
            file = folder / key(recipe) / f"{last['step']:.0f}.safetensors"
            good.setdefault(recipe["optimizer"], []).append(file)
    return good


if __name__ == "__main__":
    main()
