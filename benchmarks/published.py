"""Build the page of the spectral experiments from saved outcomes; write docs/experiments-spectra.md.

layerscope experiment rand-distance --seeds 5 --json > a.json      (and so on, for every experiment and data set)
python benchmarks/published.py a.json … --write docs/experiments-spectra.md
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

HEAD = """# What each spectral metric can and cannot tell

This page repeats three published experiments over several seeds, on data that are small enough for a laptop. It
states which claims reproduce and which do not. Data, model sizes and training lengths differ from the original
experiments, so a claim that fails here may still hold there. One command repeats each experiment: `layerscope
experiment NAME --seeds N --json`. `python benchmarks/published.py` writes the page from the results.

"""
TITLES = {
    "overtrained-layer": "Is your layer over-trained?",
    "rand-distance": "Does rand_distance follow the accuracy?",
    "enough-data": "Was it trained with enough data?",
}
TAIL = """
## Conclusions

- **α of one layer, with everything else equal** (overtrained-layer). In every run, α falls as the batch size shrinks.
  On these data, accuracy rises at the same time over the whole range. α measures how far training has moved the layer
  from its random initial weights. In the published run, accuracy drops where α falls below 2. Here, layers go below 2
  without any loss of accuracy. LS101 therefore only describes a layer, and shows the
  interval of α.
- **rand_distance** (rand-distance). It distinguishes a trained layer from a random one. Among trained models with
  different learning rates and batch sizes, its rank correlation with accuracy can have either sign. Where a large
  learning rate breaks the training, the worst models have the largest distances.
- **α across models of one architecture** (enough-data). The model with more text is much better, but its α is not
  smaller. Hundreds of steps on little text give heavier tails than the same number of steps on much text. The
  published figure is about models that were trained to the end. α alone does not rank such models; read it together
  with a loss if you have one.
- **What the metrics are good for.** They find a layer that differs from its neighbors, that has collapsed, or that
  training has not changed. They show how one run develops over time. They do not replace a test set.
"""


def section(outcomes: list[dict[str, Any]]) -> list[str]:
    """Make the section of one experiment: the claims over all seeds, and the tables of the first seed."""
    first = outcomes[0]
    lines = [f"## {TITLES[first['name']]}", "", f"{first['data']}. {len(outcomes)} seeds, "
             f"{statistics.median(o['seconds'] for o in outcomes):.0f} s per seed.", "",
             "| figure | claim | holds for | measured with the first seed |", "| --- | --- | --- | --- |"]  # fmt: skip
    for number, (figure, says, measured, _) in enumerate(first["claims"]):
        count = sum(outcome["claims"][number][3] for outcome in outcomes)
        lines.append(f"| {figure} | {says} | {count} of {len(outcomes)} | {measured} |")
    for table in first["tables"]:
        lines += ["", f"| {' | '.join(table['columns'])} |", f"| {' | '.join('---' for _ in table['columns'])} |"]
        lines += [f"| {' | '.join(map(cell, row))} |" for row in table["rows"]]
    return [*lines, ""]


def cell(value: Any) -> str:
    """Format a table cell with four digits, or a dash if there is no value."""
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def main() -> None:
    """Read the outcomes and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("outcomes", nargs="+", type=Path)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    experiments = [json.loads(path.read_text("utf-8")) for path in options.outcomes]
    experiments.sort(key=lambda outcomes: list(TITLES).index(outcomes[0]["name"]))
    text = HEAD + "\n".join(line for outcomes in experiments for line in section(outcomes)).rstrip() + "\n" + TAIL
    print(text)
    if options.write:
        options.write.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
