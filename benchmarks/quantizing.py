"""Compare predicted with measured damage of quantization, tensor by tensor, and plans with uniform formats.

    python benchmarks/quantizing.py --text FILE [--minilm FOLDER] [--gguf FILE] [--write docs/quantizing.md]

Predictions are made from texts that are not those on which the damage is measured.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from intruders import CONTEXT, Net, train
from scipy.stats import spearmanr

from layerscope.audits.live_data import LiveData, live_data, text_data
from layerscope.audits.quantization_plan import _refs_to_plan, _rounding, quantization_plan
from layerscope.lenses.learning_statistics.output_change import measure_changes
from layerscope.lenses.learning_statistics.output_damage import predict_damage
from layerscope.sources.quantization.weight_formats import format_named

FORMATS = {"4": "int4-g32", "3": "int3-g32", "2": "int2-g32"}
STEPS = 1500


def characters(text: str) -> LiveData:
    """Train the small transformer on characters, and return it with windows of text that it has not seen."""
    symbols = sorted(set(text))
    codes = torch.tensor([symbols.index(c) for c in text])
    cut = len(codes) * 8 // 10
    torch.manual_seed(0)
    net = Net(len(symbols))
    train(net, codes[:cut], STEPS, 1e-3, 0)

    def windows(part: torch.Tensor) -> torch.Tensor:
        starts = torch.linspace(0, len(part) - CONTEXT - 1, 40).long()
        return torch.stack([part[s : s + CONTEXT] for s in starts])

    half = cut + (len(codes) - cut) // 2
    return live_data(net.eval(), windows(codes[cut:half]), windows(codes[half:]))


def singles(name: str, live: LiveData, every: int, layers: Any = None) -> list[str]:
    """Return a row per format: how the prediction ranks single tensors, and how it is calibrated."""
    refs = [pair for pair in _refs_to_plan(live.model, layers) if pair[0].kind == "dense"]
    candidates = [format_named(each) for each in FORMATS.values()]
    changes = [_rounding(live, ref, parameter, candidates) for ref, parameter in refs][::every]
    start = time.process_time()
    found = predict_damage(live.model, live.examples, changes, loss=live.loss, forward=live.forward)
    seconds = time.process_time() - start
    rows = []
    for i, bits in enumerate(FORMATS):
        cases = [[_rounding(live, ref, parameter, [candidates[i]])] for ref, parameter in refs][::every]
        everything = [case[0] for case in cases]
        results = measure_changes(live.model, live.held_out, [*cases, everything], loss=live.loss, forward=live.forward)
        measured = np.array([result.mean for result in results[:-1]])
        predicted = np.array([found[change.name].mean[i] for change in changes])
        errors = []
        for change in changes:
            weight = live.model.get_parameter(change.parameter).detach()
            errors.append(np.linalg.norm(change.read()[i]) / float(weight.norm()))
        alive = measured > 0
        rho, other = (spearmanr(values[alive], measured[alive])[0] for values in (predicted, np.array(errors)))
        ratio = float(np.median(predicted[alive] / measured[alive]))
        together = results[-1].mean
        rows.append(
            f"| {name} | {bits} | {int(alive.sum())} | {rho:.3f} | {other:+.2f} | {ratio:.2f} | "
            f"{predicted.sum():.3g} | {measured.sum():.3g} | {together:.3g} | {seconds:.0f} |"
        )
        print(rows[-1], flush=True)
    return rows


def plans(name: str, live: LiveData, budgets: tuple[float, ...], layers: Any = None) -> list[str]:
    """Return a row per budget: the plan against the uniform format of that size, measured."""
    formats = [f"int{bits}-g32" for bits in (2, 3, 4, 5, 6, 8)]
    rows = []
    for budget in budgets:
        plan = quantization_plan(name, live, bits=budget, formats=formats, measure=True, layers=layers)
        uniform = min(plan.uniform, key=lambda point: abs(point.bits - budget))
        rows.append(
            f"| {name} | {budget} | {plan.plan.damage:.3g} | {plan.plan.measured:.3g} ± {plan.plan.measured_error:.1g} "
            f"| {uniform.measured:.3g} ± {uniform.measured_error:.1g} | {plan.plan.measured / uniform.measured:.2f} |"
        )
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Run all models, and print or write the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--minilm", type=Path)
    parser.add_argument("--gguf", type=Path)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(2)
    tables: dict[str, list[str]] = {"singles": [], "plans": []}
    net = characters(options.text.read_text("utf-8"))
    tables["singles"] += singles("character transformer", net, 1)
    tables["plans"] += plans("character transformer", net, (3.5, 4.5, 5.5))
    if options.minilm:
        live = text_data(options.minilm, options.text)
        tables["singles"] += singles("MiniLM", live, 1)
        tables["plans"] += plans("MiniLM", live, (3.5, 4.5), ["-embedding"])
    if options.gguf:
        live = text_data(options.gguf, options.text, examples=16, tokens=48)
        tables["singles"] += singles("Gemma 3 270M", live, 9)
    page = (Path(__file__).parent / "quantizing.md.in").read_text("utf-8")
    page = page.format(**{key: "\n".join(rows) for key, rows in tables.items()})
    print(page)
    if options.write:
        options.write.write_text(page, "utf-8")


if __name__ == "__main__":
    main()
