"""Measure which spectral metrics follow the accuracy of real networks; write docs/accuracy.md.

    make accuracy

The models are 14 checkpoints of one training run, and seven networks of different architectures for one task. Their
accuracies are known. The weights are read from ../shared or $LAYERSCOPE_SHARED.
"""

import argparse
import os
import re
import sys
from pathlib import Path

from scipy.stats import kendalltau

import layerscope

HERE = Path(__file__).resolve().parent
MODELS = Path(os.environ.get("LAYERSCOPE_SHARED", HERE.parent.parent / "shared")) / "data" / "models"
KEYWORDS = {"DNN": 84.6, "CNN": 91.6, "Basic_LSTM": 92.0, "LSTM": 92.9, "GRU": 93.5, "CRNN": 94.0, "DS_CNN": 94.4}
METRICS = (
    "alpha", "alpha_hill", "alpha_e_tpl", "D", "rand_distance", "mp_softrank", "mp_ks", "entropy", "stable_rank",
    "log_norm", "log_spectral_norm", "log_alpha_norm", "alpha_weighted",
)  # fmt: skip
SHAPE = METRICS[: METRICS.index("stable_rank") + 1]


def series() -> dict[str, dict[Path, float]]:
    """Return the checkpoints of each series with their accuracies, in order."""
    run = sorted((MODELS / "fer_mini_xception").glob("*.safetensors"))
    accuracy = {path: 100 * float(re.search(r"acc([\d.]+)\.safetensors", path.name)[1]) for path in run}
    nets = {MODELS / "arm_kws" / f"{name}_S.safetensors": value for name, value in KEYWORDS.items()}
    return {"one training run": accuracy, "seven designs": nets}


def table(accuracy_by_model: dict[Path, float], min_evals: int) -> tuple[list[str], list[str]]:
    """Make two tables: Kendall's τ between each metric and accuracy, and the numbers of each model."""
    reports = {
        path: layerscope.analyze(path, randomize=True, evidence=True, bootstrap=1, min_evals=min_evals)
        for path in accuracy_by_model
    }
    means = {path: report.summary["metrics"] for path, report in reports.items()}
    lines = ["| metric (mean over layers) | kind | Kendall τ with accuracy | p | models |", "| --- " * 5 + "|"]
    for metric in METRICS:
        pairs = [
            (means[path][metric]["mean"], accuracy)
            for path, accuracy in accuracy_by_model.items()
            if metric in means[path]
        ]
        tau, p = kendalltau(*zip(*pairs, strict=True))
        kind = "shape" if metric in SHAPE else "scale" if metric != "alpha_weighted" else "both"
        lines.append(f"| `{metric}` | {kind} | {tau:+.2f} | {p:.2g} | {len(pairs)} |")
        print(lines[-1], flush=True)
    rows = ["| model | accuracy | layers with α | α | rand_distance | log λmax |", "| --- " * 6 + "|"]
    for path, accuracy in accuracy_by_model.items():
        m, count = means[path], reports[path].summary["averaged"]
        values = [
            m[name]["mean"] if name in m else float("nan") for name in ("alpha", "rand_distance", "log_spectral_norm")
        ]
        cells = " | ".join(f"{value:.2f}" for value in values)
        rows.append(f"| {path.stem.split('_valacc')[0]} | {accuracy:g} % | {count} | {cells} |")
    return lines, rows


def main() -> None:
    """Run all measurements and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", type=Path, help="Write the results to this Markdown page.")
    parser.add_argument("--min-evals", type=int, default=30)
    options = parser.parse_args()
    if not MODELS.is_dir():
        sys.exit(f"there are no weights in {MODELS}; set $LAYERSCOPE_SHARED to their folder")
    tables = {name: table(accuracy_by_model, options.min_evals) for name, accuracy_by_model in series().items()}
    if options.write:
        page = (HERE / "accuracy.md.in").read_text("utf-8")
        for name, (taus, rows) in tables.items():
            page = page.replace(f"{{{name}: taus}}", "\n".join(taus)).replace(f"{{{name}: rows}}", "\n".join(rows))
        options.write.write_text(page.replace("{min_evals}", str(options.min_evals)), "utf-8")


if __name__ == "__main__":
    main()
