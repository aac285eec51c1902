"""The page of the validity study: what each verdict and each metric is worth, with intervals; docs/validity.md.

Every number comes from outcomes.csv.gz and metrics.csv.gz, so the page needs neither data nor training.
"""

from __future__ import annotations

import csv
import gzip
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import beta, kendalltau

HERE = Path(__file__).resolve().parent
METRICS = ("alpha", "alpha_excess", "alpha_hill", "alpha_weighted", "log_norm", "log_spectral_norm", "entropy",
           "mp_softrank", "rand_distance", "relative_stable_rank", "spike_share", "distance")  # fmt: skip
GOOD_ACCURACY, BAD_ACCURACY = 0.9, 0.6  # of the best test accuracy in the family
GOOD_GAP, LARGE_GAP = 0.12, 0.1  # training accuracy minus test accuracy
LOST = 0.03  # test accuracy below its best, from which a run went on too long; its standard error is about 0.01
CHOOSING = ("mlp-mnist", "mlp-fashion", "mlp-digits", "cnn-digits")  # families that choose a threshold
GROWTHS, RISES = (0.02, 0.04, 0.06, 0.1, 0.15, 0.2), (-math.inf, 0.03, 0.1, 0.2)
MAX_FALSE_ALARMS = 0.05  # of the rule about a run, on the families that choose it
BOOTSTRAPS = 400
MIN_NETS = 8  # of a family, for a rank correlation within it


class Net(NamedTuple):
    """One training: its recipe, outcomes and metrics at every check."""

    recipe: dict[str, str]
    outcomes: list[dict[str, float]]
    metrics: list[dict[str, float]]
    verdicts: frozenset[str]

    @property
    def family(self) -> str:
        return self.recipe["family"]

    @property
    def accuracy(self) -> float:
        return self.outcomes[-1]["test_accuracy"]

    @property
    def gap(self) -> float:
        return self.outcomes[-1]["train_accuracy"] - self.accuracy

    @property
    def lost(self) -> float:
        """Test accuracy lost from the best check to the last."""
        return max(check["test_accuracy"] for check in self.outcomes) - self.accuracy

    def series(self, name: str) -> list[float]:
        """Return a metric at every check that has it, without the one before training."""
        return [check[name] for check in self.metrics[1:] if name in check]


def read_nets() -> list[Net]:
    """Read both tables."""
    outcomes, metrics = defaultdict(list), defaultdict(list)
    for name, table in (("outcomes", outcomes), ("metrics", metrics)):
        with gzip.open(HERE / f"{name}.csv.gz", "rt", encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                table[row["family"], row["seed"]].append(row)
    nets = []
    for key, rows in outcomes.items():
        measured = sorted(metrics[key], key=lambda row: int(row["step"]))
        rows = sorted(rows, key=lambda row: int(row["step"]))
        numbers = [{name: float(row[name]) for name in METRICS if row[name]} for row in measured]
        results = [{name: float(row[name]) for name in row if name.endswith(("_loss", "_accuracy")) and row[name]}
                   for row in rows]  # fmt: skip
        nets.append(Net(rows[0], results, numbers, frozenset(measured[-1]["verdicts"].split())))
    return nets


def best_accuracy(nets: Sequence[Net]) -> dict[str, float]:
    """Return the best final test accuracy of each family."""
    best: dict[str, float] = {}
    for net in nets:
        best[net.family] = max(best.get(net.family, 0.0), net.accuracy)
    return best


def interval(hits: int, trials: int) -> str:
    """Format a share with its exact 90 % interval (Clopper & Pearson 1934)."""
    if not trials:
        return "–"
    low = float(beta.ppf(0.05, hits, trials - hits + 1)) if hits else 0.0
    high = float(beta.ppf(0.95, hits + 1, trials - hits)) if hits < trials else 1.0
    return f"{hits / trials:.2f} ({low:.2f}–{high:.2f})"


# --- verdicts ----------------------------------------------------------------------------------------------------


def verdict_table(nets: Sequence[Net]) -> Iterator[str]:
    """Yield precision, recall and false alarms of each verdict, for three faults."""
    best = best_accuracy(nets)
    share = [net.accuracy / best[net.family] for net in nets]
    faults = {
        "bad": [s < BAD_ACCURACY for s in share],
        "large gap": [net.gap > LARGE_GAP for net in nets],
        "trained too long": [net.lost > LOST for net in nets],
    }
    good = [s >= GOOD_ACCURACY and net.gap < GOOD_GAP for s, net in zip(share, nets, strict=True)]
    heads = [f"{name}: precision | {name}: recall" for name in faults]
    yield f"| verdict | given to | false alarms | {' | '.join(heads)} |"
    yield "| --- " * (3 + 2 * len(faults)) + "|"
    for code in sorted({code for net in nets for code in net.verdicts}):
        fired = [code in net.verdicts for net in nets]
        alarms = sum(f and g for f, g in zip(fired, good, strict=True))
        cells = [str(sum(fired)), interval(alarms, sum(good))]
        for members in faults.values():
            hits = sum(f and m for f, m in zip(fired, members, strict=True))
            cells += [interval(hits, sum(fired)), interval(hits, sum(members))]
        yield f"| {code} | {' | '.join(cells)} |"
    rates = ", ".join(f"{name} {sum(members) / len(nets):.2f}" for name, members in faults.items())
    yield ""
    yield f"Base rates over {len(nets)} nets: {rates}. {sum(good)} nets are good."


# --- metrics -----------------------------------------------------------------------------------------------------


def metric_table(nets: Sequence[Net]) -> Iterator[str]:
    """Yield Kendall's τ of each metric with accuracy and gap: over all, within families, within one recipe's seeds."""
    yield "| metric | accuracy, within families | accuracy, all | gap, within families | gap, all | gap, one recipe |"
    yield "| --- " * 6 + "|"
    for name in METRICS:
        cells = []
        for target in (lambda net: net.accuracy, lambda net: net.gap):
            cells += [tau_within(nets, name, target), tau_over(nets, name, target)]
        repeated = [net for net in nets if int(net.recipe["seed"]) >= 100_000]
        cells.append(tau_within(repeated, name, lambda net: net.gap, least=5))
        yield f"| {name} | {' | '.join(cells)} |"


def last_values(nets: Sequence[Net], name: str, target: Callable[[Net], float]) -> tuple[np.ndarray, np.ndarray]:
    """Return a metric and a target at the last check of every net that has the metric."""
    pairs = [(net.metrics[-1][name], target(net)) for net in nets if name in net.metrics[-1]]
    array = np.array(pairs).reshape(-1, 2)
    return array[:, 0], array[:, 1]


def tau_over(nets: Sequence[Net], name: str, target: Callable[[Net], float]) -> str:
    """Format τ over all nets, with its bootstrap interval."""
    x, y = last_values(nets, name, target)
    rng = np.random.default_rng(0)
    draws = [kendalltau(x[i], y[i]).statistic for i in (rng.integers(len(x), size=len(x)) for _ in range(BOOTSTRAPS))]
    return format_tau(kendalltau(x, y).statistic, draws)


def tau_within(nets: Sequence[Net], name: str, target: Callable[[Net], float], least: int = MIN_NETS) -> str:
    """Format the mean of τ within each family, with its bootstrap interval over nets."""
    families: dict[str, list[Net]] = defaultdict(list)
    for net in nets:
        families[net.family].append(net)
    pairs = [last_values(group, name, target) for group in families.values()]
    pairs = [(x, y) for x, y in pairs if len(x) >= least]
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(BOOTSTRAPS):
        picks = [rng.integers(len(x), size=len(x)) for x, _ in pairs]
        draws.append(np.nanmean([kendalltau(x[i], y[i]).statistic for (x, y), i in zip(pairs, picks, strict=True)]))
    return format_tau(float(np.nanmean([kendalltau(x, y).statistic for x, y in pairs])), draws)


def format_tau(value: float, draws: Sequence[float]) -> str:
    """Format τ with the middle 90 % of its bootstrap draws."""
    low, high = np.nanquantile(draws, [0.05, 0.95])
    return f"{value:+.2f} ({low:+.2f}–{high:+.2f})"


# --- within one run ----------------------------------------------------------------------------------------------

Signal = Callable[[Net], float]


def rise(name: str, sign: float = 1.0) -> Signal:
    """Return how far a metric rises (or falls) from its extreme to the end of a run."""

    def measure(net: Net) -> float:
        values = [sign * value for value in net.series(name)]
        return values[-1] - min(values) if len(values) >= 4 else math.nan

    return measure


def growth(name: str) -> Signal:
    """Return how much a metric grows over the last third of a run."""

    def measure(net: Net) -> float:
        values = net.series(name)
        return values[-1] - values[-1 - len(values) // 3] if len(values) >= 6 else math.nan

    return measure


SIGNALS: dict[str, Signal] = {
    "rise of α from its minimum": rise("alpha"),
    "rise of α (Hill) from its minimum": rise("alpha_hill"),
    "fall of the relative stable rank from its maximum": rise("relative_stable_rank", -1),
    "rise of rand_distance from its minimum": rise("rand_distance"),
    "growth of log₁₀‖W‖² in the last third": growth("log_norm"),
    "growth of log₁₀λmax in the last third": growth("log_spectral_norm"),
    "growth of the distance from the start in the last third": growth("distance"),
}


def run_table(nets: Sequence[Net]) -> Iterator[str]:
    """Yield, for each signal within a run, its τ with the accuracy lost and the best rule, chosen and held out."""
    chosen = [net for net in nets if net.family in CHOOSING]
    held = [net for net in nets if net.family not in CHOOSING]
    yield ("| signal within one run | τ with the accuracy lost | threshold | chosen on: precision | recall "
           "| held out: precision | recall | false alarms |")  # fmt: skip
    yield "| --- " * 8 + "|"
    for name, signal in SIGNALS.items():
        values = np.array([signal(net) for net in nets])
        lost = np.array([net.lost for net in nets])
        usable = np.isfinite(values)
        rng = np.random.default_rng(0)
        picks = [rng.choice(np.flatnonzero(usable), usable.sum()) for _ in range(BOOTSTRAPS)]
        tau = format_tau(
            kendalltau(values[usable], lost[usable]).statistic,
            [kendalltau(values[i], lost[i]).statistic for i in picks],
        )
        threshold = choose_threshold(chosen, signal)
        cells = [tau, f"{threshold:.3g}" if math.isfinite(threshold) else "none"]
        for group in (chosen, held):
            fired = [net for net in group if signal(net) > threshold]
            hits = sum(net.lost > LOST for net in fired)
            cells += [interval(hits, len(fired)), interval(hits, sum(net.lost > LOST for net in group))]
        sound = [net for net in held if net.lost <= LOST]
        cells.append(interval(sum(signal(net) > threshold for net in sound), len(sound)))
        yield f"| {name} | {' | '.join(cells)} |"
    rates = [f"{sum(net.lost > LOST for net in group) / len(group):.2f}" for group in (chosen, held)]
    yield ""
    yield (f"Base rates of a run that lost more than {100 * LOST:g} points: {rates[0]} of the {len(chosen)} runs that "
           f"choose ({', '.join(CHOOSING)}), {rates[1]} of the {len(held)} others.")  # fmt: skip


def rule_table(nets: Sequence[Net]) -> Iterator[str]:
    """Yield the rule about a run that the choosing families prefer, and what it is worth on the others.

    A rule is a pair of thresholds, for the growth of log₁₀‖W‖² in the last third and for the rise of α. The one with
    the best recall minus false alarms is chosen, among those with at most 5 % false alarms.
    """
    chosen = [net for net in nets if net.family in CHOOSING]
    held = [net for net in nets if net.family not in CHOOSING]
    best = max(
        (score, grown, risen)
        for grown in GROWTHS
        for risen in RISES
        if (score := _youden(chosen, grown, risen)) is not None
    )
    _, grown, risen = best
    also = f" and α has risen by more than {risen:g}" if math.isfinite(risen) else ""
    yield f"The rule: log₁₀‖W‖² grew by more than {grown:g} in the last third of the run{also}."
    yield ""
    yield "| families | given to | precision | recall | false alarms | base rate |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for name, group in (("that chose it", chosen), ("held out", held)):
        fired = [net for net in group if _rule_holds(net, grown, risen)]
        bad = [net for net in group if net.lost > LOST]
        hits = sum(net.lost > LOST for net in fired)
        cells = [str(len(fired)), interval(hits, len(fired)), interval(hits, len(bad)),
                 interval(len(fired) - hits, len(group) - len(bad)), f"{len(bad) / len(group):.2f}"]  # fmt: skip
        yield f"| {name} | {' | '.join(cells)} |"


def _rule_holds(net: Net, grown: float, risen: float) -> bool:
    return growth("log_norm")(net) > grown and not rise("alpha")(net) <= risen


def _youden(nets: Sequence[Net], grown: float, risen: float) -> float | None:
    """Return recall minus false alarms of a rule, or None with more than 5 % false alarms."""
    fired = np.array([_rule_holds(net, grown, risen) for net in nets])
    lost = np.array([net.lost > LOST for net in nets])
    return float(fired[lost].mean() - fired[~lost].mean()) if fired[~lost].mean() <= MAX_FALSE_ALARMS else None


def choose_threshold(nets: Sequence[Net], signal: Signal) -> float:
    """Return the threshold with the best Youden index (recall minus false alarms) on some nets."""
    values = np.array([signal(net) for net in nets])
    lost = np.array([net.lost > LOST for net in nets])
    candidates = np.unique(values[np.isfinite(values)])
    if not len(candidates):
        return math.nan
    scores = [np.mean(values[lost] > c) - np.mean(values[~lost] > c) for c in candidates]
    return float(candidates[int(np.argmax(scores))])


def write(path: Path) -> Iterator[str]:
    """Write the page."""
    path.write_text(page(), "utf-8")
    yield f"{path} is written"


def _in_words(row: str) -> str:
    """Describe the last row of the table of the rule."""
    _, _, _, precision, recall, alarms, base, _ = (cell.strip() for cell in row.split("|"))
    return (
        f"its precision is {precision}, its recall {recall}, with false alarms {alarms}; {base} of all runs lost that"
    )


def page() -> str:
    """Return the page."""
    nets = read_nets()
    rules = list(rule_table(nets))
    tables = ["\n".join(table(nets)) for table in (verdict_table, metric_table, run_table)]
    families = ", ".join(sorted({net.family for net in nets}))
    text = (HERE / "page.md.in").read_text("utf-8")
    return text.format(nets=len(nets), families=families, verdicts=tables[0], metrics=tables[1], runs=tables[2],
                       rule="\n".join(rules), held_out=_in_words(rules[-1]),
                       public=(HERE / "public.md").read_text("utf-8").strip())  # fmt: skip
