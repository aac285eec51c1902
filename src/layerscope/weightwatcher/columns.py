"""Build the rows of the data frame that ``analyze`` returns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import MissingExtra
from layerscope.metrics.random_matrix import trap_counts
from layerscope.records.layers import LayerReport
from layerscope.settings import Settings
from layerscope.weightwatcher.names import E_TPL, EPSILON, FAILED, FITS, LOCALIZED, OVER_TRAINED, SUCCESS, UNDER_TRAINED

if TYPE_CHECKING:
    import pandas as pd

    from layerscope.array_types import Floats


@dataclass(frozen=True)
class ColumnOptions:
    """Options of an analysis that decide which columns its rows have."""

    randomize: bool
    mp_fit: bool
    vectors: bool
    erg: bool
    fit: str
    fingers: bool
    tolerance: float
    settings: Settings


def data_frame(rows: list[dict[str, Any]], columns: list[str]) -> pd.DataFrame:
    """Return the rows as a pandas data frame.

    :raises MissingExtra: pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError:
        raise MissingExtra("WeightWatcher's data frames", "pandas") from None
    return pd.DataFrame(rows, columns=columns)


def build_row(sizes: dict[str, Any], layer: LayerReport, options: ColumnOptions) -> dict[str, Any]:
    """Build one row of the data frame; a missing number is NaN."""
    nan, metrics, spectrum = math.nan, layer.metrics, layer.spectrum
    row: dict[str, Any] = {**sizes, "has_esd": spectrum is not None, "status": FAILED, "warning": ""}
    shared_names = ("D", "alpha", "alpha_weighted", "lambda_max", "log_alpha_norm", "log_norm", "log_spectral_norm",
            "matrix_rank", "norm", "num_pl_spikes", "rank_loss", "sigma", "spectral_norm", "stable_rank", "sv_max",
            "sv_min", "xmax", "xmin")  # fmt: skip
    row |= {name: metrics.get(name, nan) for name in shared_names}
    row["entropy"], row["weak_rank_loss"] = nan, nan
    if spectrum is not None:
        row["entropy"] = _spectral_entropy(spectrum.evals, int(metrics.get("matrix_rank", 0)))
        row["weak_rank_loss"] = int((spectrum.evals < options.tolerance).sum())
    row |= _build_fit_columns(layer, options)
    if options.mp_fit:
        row |= _build_bulk_columns(layer)
    if options.randomize:
        row |= _build_shuffle_columns(layer)
    if options.erg:
        row |= {"detX_num": metrics.get("detX_num", nan), "num_ERG_spikes": metrics.get("detX_num", nan),
                "ERG_gap": metrics.get("ERG_gap", nan), "detX_val": metrics.get("detX_val", nan),
                "detX_val_unrescaled": nan}  # fmt: skip
        if spectrum is not None and "detX_val" in metrics:
            row["detX_val_unrescaled"] = float(metrics["detX_val"]) / float(spectrum.evals.mean())
    if options.vectors:
        row |= {name: metrics.get(name, nan) for name in LOCALIZED}
    if options.fingers:
        row |= {"num_fingers": metrics.get("num_fingers", nan), "raw_alpha": metrics.get("raw_alpha", nan)}
    return row


def _build_fit_columns(layer: LayerReport, options: ColumnOptions) -> dict[str, Any]:
    """Return the columns of the requested fit, with status and warning."""
    metrics = layer.metrics
    row: dict[str, Any] = {}
    if FITS[options.fit]:
        alpha_name = "alpha_e_tpl" if options.fit == E_TPL else "alpha_tpl"
        cutoff_name = "Lambda_e_tpl" if options.fit == E_TPL else "Lambda"
        row = {
            "alpha": metrics.get(alpha_name, math.nan),
            "Lambda": metrics.get(cutoff_name, math.nan),
            "sigma": math.nan,
            "D": math.nan,
        }
        if alpha_name in metrics:
            log_lambda_max = math.log10(float(metrics["lambda_max"]))
            row |= {
                "alpha_weighted": float(metrics[alpha_name]) * log_lambda_max,
                "log_alpha_norm": _log_alpha_norm(layer, float(metrics[alpha_name])),
            }
        if options.fit == E_TPL and "alpha_e_tpl" in metrics:
            fit = layer.parts["weight"].fits["e_tpl"].params
            row |= {"xmin": fit["xmin"], "num_pl_spikes": int(fit["n_tail"])}
    alpha = float(row.get("alpha", metrics.get("alpha", math.nan)))
    if math.isnan(alpha):
        return row
    limits = options.settings.limits
    row["status"] = SUCCESS
    row["warning"] = (
        OVER_TRAINED if alpha < limits.over_trained else UNDER_TRAINED if alpha > limits.under_trained else ""
    )
    return row


def _log_alpha_norm(layer: LayerReport, alpha: float) -> float:
    assert layer.spectrum is not None
    lambda_max = float(layer.spectrum.evals[-1])
    return alpha * math.log10(lambda_max) + math.log10(float(((layer.spectrum.evals / lambda_max) ** alpha).sum()))


def _spectral_entropy(evals: Floats, rank: int) -> float:
    """Return −Σp ln p / ln R with 10⁻¹⁰ added to each p; 0 for matrices of rank one."""
    total = float(evals.sum())
    if rank <= 1 or total <= 0:
        return 0.0
    p = evals / total + EPSILON
    return float(-(p * np.log(p)).sum() / math.log(rank + EPSILON))


def _build_bulk_columns(layer: LayerReport) -> dict[str, Any]:
    """Return the columns of the Marchenko–Pastur fit.

    The fit of weightwatcher 0.7.7 is used where it defines a σ; otherwise (square layers) layerscope's own fit in
    weightwatcher's units.
    """
    nan = math.nan
    names = ("W_scale", "bulk_max", "bulk_min", "mp_softrank", "num_spikes", "sigma_mp")
    kde, mp = (layer.parts["weight"].fits.get(name) for name in ("mp_kde", "marchenko_pastur"))
    if kde is not None and kde.ok:
        p = kde.params
        return dict(zip(names, (p["scale"], p["bulk_max"], p["bulk_min"], p["softrank"], int(p["spikes"]), p["sigma"]),
                        strict=True))  # fmt: skip
    if mp is None or not mp.ok or layer.spectrum is None:
        return dict.fromkeys(names, nan)
    s, p = layer.spectrum, mp.params
    scale = math.sqrt(len(s.evals) / float(s.evals.sum()))
    values = (scale, p["bulk_max"], p["bulk_min"], p["bulk_max"] / float(s.evals[-1]), int(p["spikes"]),
              p["sigma"] * math.sqrt(s.n) * scale)  # fmt: skip
    return dict(zip(names, values, strict=True))


def _build_shuffle_columns(layer: LayerReport) -> dict[str, Any]:
    """Return the columns of randomize=True: means over the shuffles, and the median number of traps in a shuffle."""
    nan, metrics = math.nan, layer.metrics
    row = {name: metrics.get(name, nan) for name in ("max_rand_eval", "rand_distance", "ww_softrank", "ww_maxdist")}
    parts = [part for role, part in layer.parts.items() if role.startswith("shuffle")]
    fits = [(part.spectrum, part.fits["marchenko_pastur"].params) for part in parts
            if part.spectrum is not None and part.fits["marchenko_pastur"].ok]  # fmt: skip
    names = (
        "rand_W_scale",
        "rand_bulk_max",
        "rand_bulk_min",
        "rand_mp_softrank",
        "rand_num_spikes",
        "rand_sigma_mp",
        "num_traps",
    )
    if not fits:
        return row | dict.fromkeys(names, nan)
    scales = [math.sqrt(len(s.evals) / float(s.evals.sum())) if s.evals[-1] > 0 else nan for s, _ in fits]
    traps = int(median(trap_counts(parts)))
    return row | {
        "rand_W_scale": fmean(scales),
        "rand_bulk_max": fmean(p["bulk_max"] for _, p in fits),
        "rand_bulk_min": fmean(p["bulk_min"] for _, p in fits),
        "rand_mp_softrank": fmean(p["bulk_max"] / float(s.evals[-1]) for s, p in fits),
        "rand_num_spikes": traps,
        "num_traps": traps,
        "rand_sigma_mp": fmean(p["sigma"] * math.sqrt(s.n) * c for (s, p), c in zip(fits, scales, strict=True)),
    }
