"""Names and defaults of weightwatcher 0.7.7."""

from __future__ import annotations

PL, POWER_LAW, POWERLAW = "PL", "power_law", "powerlaw"
TPL, TRUNCATED_POWER_LAW, E_TPL = "TPL", "truncated_power_law", "E_TPL"
XMIN_PEAK, CLIP_XMAX = "xmin_peak", "clip_xmax"
SVD, RMT, DETX, LAMBDA_MIN, AUTO = "svd", "rmt", "detX", "alpha_min", "auto"
RAW, EUCLIDEAN, CKA = "raw", "euclidean", "cka"
FAST_SVD, ACCURATE_SVD = "fast", "accurate"
WW_POWERLAW, POWERLAW_PACKAGE = "ww", "powerlaw"
PEFT_WITH_BASE = "with_base"
SUCCESS, FAILED, OVER_TRAINED, UNDER_TRAINED, UNKNOWN = "success", "failed", "over-trained", "under-trained", "unknown"
DEF_SAVE_DIR = "ww-img"
DEFAULT_MIN_EVALS, DEFAULT_MAX_EVALS, DEFAULT_MAX_N = 8, 15_000, 50_000
EPSILON = 1e-10  # added to each p of the entropy

SUPPORTED = ("dense", "conv1d", "conv2d", "embedding")
TYPES = (*SUPPORTED, "norm", "unknown")
SUMMED = ("log_norm", "alpha", "alpha_weighted", "log_alpha_norm", "log_spectral_norm", "stable_rank", "mp_softrank")
FITS = {
    PL: (),
    POWER_LAW: (),
    TPL: ("truncated_power_law",),
    TRUNCATED_POWER_LAW: ("truncated_power_law",),
    E_TPL: ("e_tpl",),
}
LOCALIZED = [f"{part}_{what}_{of}" for part in ("bulk", "tail") for what in ("mean", "var")
             for of in ("vec_entropy", "loc_ratio", "part_ratio")]  # fmt: skip
SIZES = ["layer_id", "name", "M", "N", "Q", "layer_type", "longname", "num_evals", "rf"]


class LAYER_TYPE:
    """Names of layer types."""

    UNKNOWN, STACKED, DENSE, CONV1D, CONV2D, EMBEDDING, NORM = (
        "unknown", "stacked", "dense", "conv1d", "conv2d", "embedding", "norm",
    )  # fmt: skip


class FRAMEWORK:
    """Names of frameworks."""

    UNKNOWN, PYTORCH, PYSTATEDICT, PYSTATEDICT_DIR = "unknown", "pytorch", "pystatedict", "pystatedict_dir"


NO_PICTURES = "use analyze(plot=True) to draw the layers before and after"
NO_FFT = "in weightwatcher 0.7.7 it does not give the spectrum of the convolution"
NO_SLICES = "weightwatcher 0.7.7 does not support it either"
