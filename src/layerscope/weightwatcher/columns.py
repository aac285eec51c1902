"""One row of the data frame that analyze returns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import MissingExtra
from layerscope.metrics.random_matrix import traps_of
from layerscope.records.layers import LayerReport
from layerscope.settings import Settings
from layerscope.weightwatcher.names import E_TPL, EPSILON, FAILED, FITS, LOCALIZED, OVER_TRAINED, SUCCESS, UNDER_TRAINED

if TYPE_CHECKING:
    import pandas as pd

    from layerscope.array_types import Floats


@dataclass(frozen=True)
class Wanted:
    """Which columns an analysis was asked for."""

    randomize: bool
    mp_fit: bool
    vectors: bool
    erg: bool
    fit: str
    fingers: bool
    tolerance: float
    settings: Settings


def data_frame(rows: list[dict[str, Any]], columns: list[str]) -> pd.DataFrame:
    try:
        import pandas as pd
    except ImportError:
        raise MissingExtra("WeightWatcher's data frames", "pandas") from None
    return pd.DataFrame(rows, columns=columns)


def row_of(sizes: dict[str, Any], found: LayerReport, want: Wanted) -> dict[str, Any]:
    """One row of the data frame; NaN where there is no number."""
    nan, m, spectrum = math.nan, found.metrics, found.spectrum
    row: dict[str, Any] = {**sizes, "has_esd": spectrum is not None, "status": FAILED, "warning": ""}
    same = ("D", "alpha", "alpha_weighted", "lambda_max", "log_alpha_norm", "log_norm", "log_spectral_norm",
            "matrix_rank", "norm", "num_pl_spikes", "rank_loss", "sigma", "spectral_norm", "stable_rank", "sv_max",
            "sv_min", "xmax", "xmin")  # fmt: skip
    row |= {name: m.get(name, nan) for name in same}
    row["entropy"], row["weak_rank_loss"] = nan, nan
    if spectrum is not None:
        row["entropy"] = _entropy(spectrum.evals, int(m.get("matrix_rank", 0)))
        row["weak_rank_loss"] = int((spectrum.evals < want.tolerance).sum())
    row |= _fitted(found, want)
    if want.mp_fit:
        row |= _bulk(found)
    if want.randomize:
        row |= _shuffled(found)
    if want.erg:
        row |= {"detX_num": m.get("detX_num", nan), "num_ERG_spikes": m.get("detX_num", nan),
                "ERG_gap": m.get("ERG_gap", nan), "detX_val": m.get("detX_val", nan),
                "detX_val_unrescaled": nan}  # fmt: skip
        if spectrum is not None and "detX_val" in m:
            row["detX_val_unrescaled"] = float(m["detX_val"]) / float(spectrum.evals.mean())
    if want.vectors:
        row |= {name: m.get(name, nan) for name in LOCALIZED}
    if want.fingers:
        row |= {"num_fingers": m.get("num_fingers", nan), "raw_alpha": m.get("raw_alpha", nan)}
    return row


def _fitted(found: LayerReport, want: Wanted) -> dict[str, Any]:
    """What the fit that was asked for says; status and warning."""
    m = found.metrics
    row: dict[str, Any] = {}
    if FITS[want.fit]:
        name = "alpha_e_tpl" if want.fit == E_TPL else "alpha_tpl"
        cutoff = "Lambda_e_tpl" if want.fit == E_TPL else "Lambda"
        row = {"alpha": m.get(name, math.nan), "Lambda": m.get(cutoff, math.nan), "sigma": math.nan, "D": math.nan}
        if name in m:
            top = math.log10(float(m["lambda_max"]))
            row |= {"alpha_weighted": float(m[name]) * top, "log_alpha_norm": _log_alpha_norm(found, float(m[name]))}
        if want.fit == E_TPL and "alpha_e_tpl" in m:
            fit = found.parts["weight"].fits["e_tpl"].params
            row |= {"xmin": fit["xmin"], "num_pl_spikes": int(fit["n_tail"])}
    alpha = float(row.get("alpha", m.get("alpha", math.nan)))
    if math.isnan(alpha):
        return row
    limits = want.settings.limits
    row["status"] = SUCCESS
    row["warning"] = (
        OVER_TRAINED if alpha < limits.over_trained else UNDER_TRAINED if alpha > limits.under_trained else ""
    )
    return row


def _log_alpha_norm(found: LayerReport, alpha: float) -> float:
    assert found.spectrum is not None
    top = float(found.spectrum.evals[-1])
    return alpha * math.log10(top) + math.log10(float(((found.spectrum.evals / top) ** alpha).sum()))


def _entropy(evals: Floats, rank: int) -> float:
    """−Σp ln p / ln R with 10⁻¹⁰ added to each p, 0 for rank one."""
    total = float(evals.sum())
    if rank <= 1 or total <= 0:
        return 0.0
    p = evals / total + EPSILON
    return float(-(p * np.log(p)).sum() / math.log(rank + EPSILON))


def _bulk(found: LayerReport) -> dict[str, Any]:
    """The Marchenko–Pastur fit: of 0.7.7 where its law has a σ, of square layers the right one in its units."""
    nan = math.nan
    names = ("W_scale", "bulk_max", "bulk_min", "mp_softrank", "num_spikes", "sigma_mp")
    kde, mp = (found.parts["weight"].fits.get(name) for name in ("mp_kde", "marchenko_pastur"))
    if kde is not None and kde.ok:
        p = kde.params
        return dict(zip(names, (p["scale"], p["bulk_max"], p["bulk_min"], p["softrank"], int(p["spikes"]), p["sigma"]),
                        strict=True))  # fmt: skip
    if mp is None or not mp.ok or found.spectrum is None:
        return dict.fromkeys(names, nan)
    s, p = found.spectrum, mp.params
    scale = math.sqrt(len(s.evals) / float(s.evals.sum()))
    values = (scale, p["bulk_max"], p["bulk_min"], p["bulk_max"] / float(s.evals[-1]), int(p["spikes"]),
              p["sigma"] * math.sqrt(s.n) * scale)  # fmt: skip
    return dict(zip(names, values, strict=True))


def _shuffled(found: LayerReport) -> dict[str, Any]:
    """The columns of randomize=True, means over the shuffles; traps are the median count of one shuffle."""
    nan, m = math.nan, found.metrics
    row = {name: m.get(name, nan) for name in ("max_rand_eval", "rand_distance", "ww_softrank", "ww_maxdist")}
    parts = [part for role, part in found.parts.items() if role.startswith("shuffle")]
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
    traps = int(median(traps_of(parts)))
    return row | {
        "rand_W_scale": fmean(scales),
        "rand_bulk_max": fmean(p["bulk_max"] for _, p in fits),
        "rand_bulk_min": fmean(p["bulk_min"] for _, p in fits),
        "rand_mp_softrank": fmean(p["bulk_max"] / float(s.evals[-1]) for s, p in fits),
        "rand_num_spikes": traps,
        "num_traps": traps,
        "rand_sigma_mp": fmean(p["sigma"] * math.sqrt(s.n) * c for (s, p), c in zip(fits, scales, strict=True)),
    }
