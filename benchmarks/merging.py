"""Compare what weights and the Fisher information say about a mean of two fine-tunes with how the mean does.

    python benchmarks/merging.py --text tinyshakespeare.txt [--write docs/merging.md]

Twelve fine-tunes of one small character transformer (four kinds of text, three learning rates) give 66 pairs; the first
60 of a random order are used. One model is the mean of each pair.
"""

import argparse
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from intruders import CONTEXT, Net, loss_of, train
from scipy.stats import spearmanr

import layerscope
from layerscope.lenses.learning_statistics.output_change import measure_changes
from layerscope.lenses.learning_statistics.output_damage import Change
from layerscope.live.examples import Example, examples_of
from layerscope.live.losses import Loss
from layerscope.records.layers import LayerRef

BASE_STEPS, TUNE_STEPS, PAIRS, PASSES = 600, 200, 60, 32
RATES = (1e-4, 3e-4, 1e-3)
TEXTS = {  # what the fine-tunes read
    "the rest of the text": lambda text: text,
    "case exchanged": str.swapcase,
    "lines backwards": lambda text: "\n".join(line[::-1] for line in text.split("\n")),
    "without vowels": lambda text: "".join(c for c in text if c not in "aeiou"),
}
PREDICTORS = (
    "Fisher information",
    "distance of the weights",
    "cosine of the updates",
    "conflicting signs",
    "remaining norm",
)
TRUTHS = ("divergence from A", "rise of the loss", "barrier")


def windows(codes: torch.Tensor, count: int) -> list[Example]:
    """Return windows of a text at equal distances."""
    starts = torch.linspace(0, len(codes) - CONTEXT - 2, count).long()
    return examples_of([torch.stack([codes[s : s + CONTEXT] for s in starts])])


def changes_to(net: Net, other: dict[str, torch.Tensor]) -> list[Change]:
    """Return the changes that turn a model into the mean of it and another."""
    changes = []
    for i, (name, parameter) in enumerate(net.named_parameters()):
        half = (other[name] - parameter.detach()).numpy() / 2
        ref = LayerRef(i, name, tuple(parameter.shape), "", "float32", "dense")
        changes.append(Change(name, name, ref, lambda half=half: [half]))
    return changes


def predicted_divergence(net: Net, other: dict[str, torch.Tensor], examples: list[Example]) -> float:
    """Return ½ E⟨∂ log p/∂W, ΔW⟩² of all parameters together: their gradients are one vector."""
    changes = changes_to(net, other)
    whole = torch.cat([torch.from_numpy(c.read()[0]).reshape(-1) for c in changes])
    total, cross_entropy = 0.0, Loss.of("cross_entropy")
    for row, example in enumerate(examples):
        output = net(example.inputs)
        column = next(iter(cross_entropy.columns(output, example.inputs, "mc", (0, row), 1)))
        gradients = torch.autograd.grad(output, list(net.parameters()), column)
        total += 0.5 * float(torch.cat([g.reshape(-1) for g in gradients]) @ whole) ** 2 / CONTEXT
    return total / len(examples)


def main() -> None:
    """Train, measure all pairs, and print or write the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    text = options.text.read_text("utf-8")[:1_000_000]
    symbols = sorted(set(text) | set(text.swapcase()))

    def encode(part: str) -> torch.Tensor:
        return torch.tensor([symbols.index(c) for c in part])

    half, hold = len(text) // 2, len(text) // 20
    torch.manual_seed(0)
    base = Net(len(symbols))
    train(base, encode(text[:half]), BASE_STEPS, 1e-3, 0)
    start = {name: value.clone() for name, value in base.state_dict().items()}
    nets, tests = [], []
    for number, change in enumerate(TEXTS.values()):
        codes, held_out = encode(change(text[half:-hold])), encode(change(text[-hold:]))
        for rate in RATES:
            net = Net(len(symbols))
            net.load_state_dict(start)
            train(net, codes, TUNE_STEPS, rate, 100 + number)
            nets.append(net.eval())
            tests.append(held_out)
            print(f"fine-tune {len(nets)}: loss {loss_of(net, held_out):.3f}", flush=True)
    order = np.random.default_rng(0).permutation(list(combinations(range(len(nets)), 2)))[:PAIRS]
    rows = []
    for i, j in order:
        a, b = nets[i], nets[j]
        states = [dict(net.state_dict()) for net in (a, b)]
        mean = Net(len(symbols))
        mean.load_state_dict({name: (states[0][name] + states[1][name]) / 2 for name in states[0]})
        examples = windows(tests[i], PASSES)
        cross_entropy = Loss.of("cross_entropy")
        predicted = predicted_divergence(a, states[1], examples)
        true = measure_changes(a, examples, [changes_to(a, states[1])], loss=cross_entropy)[0].mean
        whole = layerscope.merge_check(start, *states, spectra=False).whole
        distance = float(sum((states[0][n] - states[1][n]).square().sum() for n in states[0])) ** 0.5
        losses = {(net, data): loss_of(net, tests[data]) for net in (a, b, mean) for data in (i, j)}
        rise = sum(losses[mean, d] for d in (i, j)) / 2 - (losses[a, i] + losses[b, j]) / 2
        barrier = max(losses[mean, d] - (losses[a, d] + losses[b, d]) / 2 for d in (i, j))
        rows.append(
            [predicted, distance, whole.cosines[0][1], whole.conflicts, whole.interference, true, rise, barrier]
        )
        print([f"{value:.3g}" for value in rows[-1]], flush=True)
    page = (Path(__file__).parent / "merging.md.in").read_text("utf-8").format(**tables(np.array(rows)))
    print(page)
    if options.write:
        options.write.write_text(page, "utf-8")


def tables(rows: np.ndarray) -> dict[str, str]:
    """Return the two tables of the page: rank correlations, and the calibration of the prediction."""
    count = len(PREDICTORS)
    ranks = ["| what is known before | " + " | ".join(TRUTHS) + " |", "| --- |" + " --- |" * len(TRUTHS)]
    for i, name in enumerate(PREDICTORS):
        cells = [f"{spearmanr(rows[:, i], rows[:, count + t])[0]:+.2f}" for t in range(len(TRUTHS))]
        ranks.append(f"| {name} | {' | '.join(cells)} |")
    order = np.argsort(rows[:, 0])
    curve = ["| pairs | predicted, nats | true, nats | predicted/true |", "| --- | --- | --- | --- |"]
    for part in np.array_split(order, 6):
        predicted, true = np.median(rows[part, 0]), np.median(rows[part, count])
        ratios = rows[part, 0] / rows[part, count]
        span = f"{np.median(ratios):.2f} ({ratios.min():.2f}–{ratios.max():.2f})"
        curve.append(f"| {len(part)} | {predicted:.3f} | {true:.3f} | {span} |")
    worse = int((rows[:, count + 1] > 0).sum())
    return {
        "pairs": str(len(rows)),
        "ranks": "\n".join(ranks),
        "curve": "\n".join(curve),
        "worse": str(worse),
        "ratio": f"{np.median(rows[:, 0] / rows[:, count]):.2f}",
    }


if __name__ == "__main__":
    main()
