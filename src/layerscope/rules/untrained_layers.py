"""Whether a layer looks as before training: random, or with equal singular values."""

from __future__ import annotations

from layerscope.fits.power_law import EQUAL_EIGENVALUES
from layerscope.records.layers import LayerRef, LayerReport
from layerscope.settings import Settings

MAX_SPREAD_ERRORS = 3.5  # standard errors; of 420 layers of independent entries, the largest had 3.05
MIN_UNITS_WITHOUT_BULK = 32  # outputs from which their norms alone decide, for matrices too narrow for a bulk (64×3)
BULK_PHASES = ("random-like", "bleeding-out", "bulk+spikes")
COMPARED = ("rand_distance", "rand_null")  # metrics of a layer that was compared with its shuffles


def is_quantized(ref: LayerRef) -> bool:
    """Return whether the weights are stored with fewer than 16 bits, or decoded from such codes."""
    if "decoded from" in ref.how or "dequantized from" in ref.how:
        return True
    return not ref.dtype.startswith(("float16", "bfloat16", "float32", "float64"))


def has_random_bulk(layer: LayerReport) -> bool:
    """Return whether the bulk follows the Marchenko–Pastur law, so that α would describe a few spikes only."""
    return layer.metrics.get("phase") in BULK_PHASES


def looks_untrained(layer: LayerReport, settings: Settings) -> bool:
    """Return whether a layer with enough eigenvalues looks untrained: like its shuffles, random-like or orthogonal.

    The comparison with shuffles decides where it was made; otherwise the phase does.
    """
    if int(layer.metrics.get("num_evals", 0)) < settings.min_evals or "input" in layer.parts:  # measured on data
        return False
    if has_equal_singular_values(layer):
        return True
    if not has_equal_norms(layer):
        return False
    if all(name in layer.metrics for name in COMPARED):
        return is_like_shuffles(layer, settings)
    if "phase" in layer.metrics:
        return layer.metrics["phase"] == "random-like"
    return layer.parts["weight"].facts.get("output_units", 0) >= MIN_UNITS_WITHOUT_BULK


def has_equal_norms(layer: LayerReport) -> bool:
    """Return whether the norms of the outputs' and of the inputs' weights differ only as by chance, or are unknown.

    The squared norms of N units of independent entries have a variance whose relative standard error is √(2/(N−1)).
    """
    facts = layer.parts["weight"].facts
    if "output_norm_spread" not in facts:
        return True
    errors = (
        abs(facts[f"{side}_norm_spread"] - 1) * ((facts[f"{side}_units"] - 1) / 2) ** 0.5
        for side in ("output", "input")
    )
    return bool(max(errors) <= MAX_SPREAD_ERRORS)


def is_like_shuffles(layer: LayerReport, settings: Settings) -> bool:
    """Return whether the spectrum is as close to that of shuffles as they are to each other, without more spikes."""
    m = layer.metrics
    fits = [part.fits["marchenko_pastur"] for role, part in layer.parts.items() if role.startswith("shuffle")]
    shuffle_spikes = max((int(fit.params["spikes"]) for fit in fits if fit.ok), default=0)
    limit = settings.limits.random_distance * float(m["rand_null"])
    spikes = int(m.get("num_spikes", 0))  # narrow matrices, such as 64×3, have no bulk to stand out from
    return float(m["rand_distance"]) <= limit and spikes <= shuffle_spikes


def has_equal_singular_values(layer: LayerReport) -> bool:
    """Return whether all singular values are equal: an orthogonal or an identity initialization."""
    spectrum = layer.spectrum
    if spectrum is None or not spectrum.complete or spectrum.m < 2:
        return False
    return 0 < float(spectrum.evals[-1]) <= EQUAL_EIGENVALUES * float(spectrum.evals[0])
