"""The page of the spectral experiments from saved outcomes: writes docs/experiments-spectra.md.

layerscope experiment rand-distance --seeds 5 --json > a.json      (and so on, for each and for other data)
python benchmarks/published.py a.json … --write docs/experiments-spectra.md
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

HEAD = """# What each spectral metric can and cannot tell

Written by `python benchmarks/published.py` from `layerscope experiment NAME --seeds N --json`. Each of the three
published experiments is run again with one command; here over several seeds, on data that are small enough for a
laptop. What does not reproduce is said: other data, sizes and lengths are other experiments.

"""
TITLES = {
    "overtrained-layer": "Is your layer over-trained?",
    "rand-distance": "Does rand_distance follow the accuracy?",
    "enough-data": "Was it trained with enough data?",
}
TAIL = """
## A plain judgement

- **α of one layer, everything else equal** (overtrained-layer). α falls as the batch shrinks in every run, and with it,
  on these data, the accuracy rises all the way: α is a measure of how far the layer was taken from its random start.
  That α < 2 marks the place where accuracy drops is one published run's; here layers go below 2 without any loss.
  LS101 therefore says "may be over-trained", with its interval, and never more.
- **rand_distance** (rand-distance). It tells a trained layer from a random one. Between runs that are all trained, with
  other rates and batches, its rank correlation with accuracy has either sign; where a large rate breaks the training,
  the largest distances are those of the worst models.
- **α across models of one architecture** (enough-data). The model with more text is much better, and its α is not
  smaller: hundreds of steps on little text make heavier tails than the same steps on much. The published figure is
  about models that were trained to the end. α orders neither; read it beside a loss where there is one.
- **What they are for.** Finding the layer that differs from its neighbours, the one that collapsed or never moved, and
  watching one run over time. They replace no test set.
"""


def section(outcomes: list[dict[str, Any]]) -> list[str]:
    """Claims over the seeds, the tables of the first, and the numbers' medians."""
    first = outcomes[0]
    lines = [f"## {TITLES[first['name']]}", "", f"{first['data']}. {len(outcomes)} seeds, "
             f"{statistics.median(o['seconds'] for o in outcomes):.0f} s each.", "",
             "| figure | shows | holds | measured, first seed |", "| --- | --- | --- | --- |"]  # fmt: skip
    for number, (figure, says, measured, _) in enumerate(first["claims"]):
        count = sum(outcome["claims"][number][3] for outcome in outcomes)
        lines.append(f"| {figure} | {says} | {count} of {len(outcomes)} | {measured} |")
    for table in first["tables"]:
        lines += ["", f"| {' | '.join(table['columns'])} |", f"| {' | '.join('---' for _ in table['columns'])} |"]
        lines += [f"| {' | '.join(map(cell, row))} |" for row in table["rows"]]
    return [*lines, ""]


def cell(value: Any) -> str:
    """Four digits, or a dash."""
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def main() -> None:
    """Read and write."""
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
