"""What α, the stable rank and rand_distance are in untrained layers of the same shape, and in healthy ones."""

from __future__ import annotations

from layerscope.baseline_tables import Baselines, Span, load_baselines
from layerscope.errors import Absent, Unreadable
from layerscope.metrics import metric
from layerscope.numerics.spectrum import Spectrum
from layerscope.records.layers import Fit, LayerRef, Measurement
from layerscope.settings import Settings
from layerscope.tensor_roles import role_of

SIMULATION = "simulated layers of independent entries (docs: How certain α is)"
HEALTHY = "healthy public models by role, or those of --against"


@metric(unit="", ref=SIMULATION, fmt=".2f", over_layers="")
def alpha_untrained_low(weight: Spectrum, power_law: Fit, settings: Settings) -> float:
    """5 % quantile of α in untrained layers of the same shape, for entries that are drawn independently."""
    return _untrained("alpha", weight, settings).low


@metric(unit="", ref=SIMULATION, fmt=".2f", over_layers="")
def alpha_untrained_high(weight: Spectrum, power_law: Fit, settings: Settings) -> float:
    """95 % quantile of α in untrained layers of the same shape, for entries that are drawn independently."""
    return _untrained("alpha", weight, settings).high


@metric(unit="", ref=HEALTHY, fmt=".2f", over_layers="")
def alpha_usual_low(power_law: Fit, ref: LayerRef, settings: Settings) -> float:
    """5 % quantile of α in healthy layers of the same role."""
    return _usual("alpha", ref, settings).low


@metric(unit="", ref=HEALTHY, fmt=".2f", over_layers="")
def alpha_usual_high(power_law: Fit, ref: LayerRef, settings: Settings) -> float:
    """95 % quantile of α in healthy layers of the same role."""
    return _usual("alpha", ref, settings).high


@metric(unit="", ref=f"{SIMULATION}; {HEALTHY}", fmt="s", over_layers="")
def layer_role(ref: LayerRef) -> str:
    """Role of the layer, by its name, kind and shape: the usual ranges are those of this role."""
    return role_of(ref.name, ref.kind, ref.shape, ref.axes, ref.groups)


@metric(unit="", ref=SIMULATION, fmt=".3g", over_layers="")
def stable_rank_untrained(weight: Spectrum, settings: Settings) -> float:
    """Median stable rank of untrained layers of the same shape; N·M/(√N+√M)² for one large matrix."""
    return _untrained("stable_rank", weight, settings).median


@metric(unit="", ref=HEALTHY, fmt=".3g", over_layers="")
def stable_rank_usual_low(weight: Spectrum, ref: LayerRef, settings: Settings) -> float:
    """5 % quantile of the stable rank in healthy layers of the same role, scaled to the shape of this layer."""
    return _usual("stable_rank", ref, settings).low * _untrained("stable_rank", weight, settings).median


@metric(unit="", ref=HEALTHY, fmt=".3g", over_layers="")
def stable_rank_usual_high(weight: Spectrum, ref: LayerRef, settings: Settings) -> float:
    """95 % quantile of the stable rank in healthy layers of the same role, scaled to the shape of this layer."""
    return _usual("stable_rank", ref, settings).high * _untrained("stable_rank", weight, settings).median


@metric(unit="", ref=SIMULATION, fmt=".3f", over_layers="")
def rand_distance_untrained(weight: Spectrum, shuffles: list[Measurement], settings: Settings) -> float:
    """95 % quantile of rand_distance in untrained layers of the same shape."""
    return _untrained("rand_distance", weight, settings).high


@metric(unit="", ref=HEALTHY, fmt=".3f", over_layers="")
def rand_distance_usual_low(shuffles: list[Measurement], ref: LayerRef, settings: Settings) -> float:
    """5 % quantile of rand_distance in healthy layers of the same role."""
    return _usual("rand_distance", ref, settings).low


@metric(unit="", ref=HEALTHY, fmt=".3f", over_layers="")
def rand_distance_usual_high(shuffles: list[Measurement], ref: LayerRef, settings: Settings) -> float:
    """95 % quantile of rand_distance in healthy layers of the same role."""
    return _usual("rand_distance", ref, settings).high


def _table(settings: Settings) -> Baselines:
    """Return the table; a saved report may name one that this machine lacks."""
    try:
        return load_baselines(settings.against)
    except Unreadable as error:
        raise Absent(str(error)) from None


def _untrained(name: str, weight: Spectrum, settings: Settings) -> Span:
    span = _table(settings).of_untrained(name, weight.n, weight.m, weight.k)
    if span is None:
        raise Absent("the table of baselines has no untrained layers of such shapes")
    return span


def _usual(name: str, ref: LayerRef, settings: Settings) -> Span:
    if ref.derived:
        raise Absent("usual ranges describe weights, not updates or products")
    span = _table(settings).of_healthy(name, layer_role(ref), settings.optimizer)
    if span is None:
        raise Absent(f"the table of baselines has too few layers with the role {layer_role(ref)!r}")
    return span
