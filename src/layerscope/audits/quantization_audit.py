"""What quantization did to a model: the audit behind ``layerscope quantize audit``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from layerscope.audits.live_data import LiveData
from layerscope.errors import Absent, LayerscopeError, UsageError
from layerscope.layer_jobs import usable_memory
from layerscope.lenses.learning_statistics.output_change import measure_changes
from layerscope.lenses.learning_statistics.output_damage import DRAWS, Change, predict_damage
from layerscope.numerics.quantization_error import quantization_error
from layerscope.numerics.rounding_noise import code_bits
from layerscope.records.layers import LayerRef
from layerscope.records.quantization import QuantizationAudit, QuantizedTensor
from layerscope.rules.judging import judge_quantization
from layerscope.settings import Settings
from layerscope.sources import opening, targets
from layerscope.sources.composed.pairs import Pairs, PairSource
from layerscope.sources.quantization.gguf_types import bits_of_type
from layerscope.tensor_names import Selector
from layerscope.tensor_names import select as select_layers
from layerscope.tensor_roles import block_of, role_of

Progress = Callable[[int, int], Any]
SCALE_SHARE = 16 / 128  # bits per weight of scales, where a format does not say how many weights share one


def quantization(
    quantized: Any,
    base: Any,
    *,
    live: LiveData | None = None,
    measure: int = 0,
    draws: int = DRAWS,
    layers: Iterable[Selector] | Selector | None = None,
    spectra: bool = True,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> QuantizationAudit:
    """Compare a quantized model with its original, tensor by tensor, in any two formats.

    From weights alone, errors are measured but not ranked by what they cost: no statistic of the weights follows the
    damage. With ``live``, the damage of each tensor is predicted from the Fisher information of the outputs.

    :param quantized: the quantized model.
    :param base: the original.
    :param live: the original as a live model with examples; see :func:`live_data` and :func:`text_data`.
    :param measure: also quantize this many tensors one at a time in the live model, those with the largest predicted
        damage, and all tensors at once, and measure the divergence on the held-out examples.
    :param draws: labels drawn per example for the prediction.
    :param layers: indices, kinds, names or globs of the tensors to compare.
    :param spectra: also compare the largest singular values and their vectors.
    :param settings: limits of the verdicts, and the seed of the draws.
    :param progress: called with (steps done, steps in total) of each stage.
    :raises TargetError: a model cannot be read, or the two have no tensor in common.
    """
    if measure and live is None:
        raise UsageError("measuring needs a live model and data; pass --data, or live=")
    settings = settings or Settings()
    with opening.opened_source(Pairs(quantized, base)) as source:
        assert isinstance(source, PairSource)
        refs = [ref for ref in select_layers(list(source.layers()), layers) if len(ref.shape) > 1]
        tensors = []
        for done, ref in enumerate(refs, 1):
            tensors.append(_compare(source, ref, spectra))
            if progress:
                progress(done, len(refs))
    meta = {"seed": settings.seed, "targets": [targets.name_of(quantized), targets.name_of(base)]}
    together: dict[str, float] = {}
    if live is not None:
        tensors, together = _with_damage(tensors, quantized, live, measure, draws, settings, progress)
        meta |= {"examples": len(live.examples), "draws": draws, "unit": live.unit, "loss": live.loss.kind}
    result = QuantizationAudit(targets.name_of(quantized), targets.name_of(base), tuple(tensors), (), together, meta)
    return replace(result, findings=judge_quantization(result, settings))


def _compare(source: PairSource, ref: LayerRef, spectra: bool) -> QuantizedTensor:
    role = role_of(ref.name, ref.kind, ref.shape, ref.axes, ref.groups)
    empty = QuantizedTensor(ref.name, role, block_of(ref.name), ref.shape, "", 0.0, {}, ref.skipped)
    if ref.skipped:
        return empty
    tuned_ref, base_ref = source.refs(ref)
    stored_as, bits = stored_bits(tuned_ref)
    try:
        numbers = quantization_error(source.base.read(base_ref), source.tuned.read(tuned_ref), spectra=spectra)
    except (Absent, LayerscopeError) as error:
        return replace(empty, skipped=str(error))
    return replace(empty, stored_as=stored_as, bits=bits, numbers=numbers)


def stored_bits(ref: LayerRef) -> tuple[str, float]:
    """Return (name of the format, bits per weight) of a stored tensor."""
    for marker in ("decoded from ", "dequantized from "):
        _, found, rest = ref.how.partition(marker)
        if found:
            name = rest.split(",")[0].strip()
            exact = bits_of_type(name)
            return name, exact if exact is not None else code_bits(ref.how) + SCALE_SHARE
    return ref.dtype, 8.0 * ref.itemsize


def changes_of(quantized: Any, model: Any, wanted: set[str] | None = None) -> tuple[list[Change], dict[str, str]]:
    """Return the change of every weight of a live model, and why weights are left out.

    Values are read when they are needed. Weights whose change is zero have none.
    """
    source = opening.open_target(Pairs(quantized, model))
    assert isinstance(source, PairSource)
    changes, left_out = [], {}
    parameters = dict(model.named_parameters())
    for ref in source.layers():
        if len(ref.shape) < 2 or (wanted is not None and ref.name not in wanted):
            continue
        if ref.skipped:
            left_out[ref.name] = ref.skipped
            continue
        parameter = source.refs(ref)[1].tensor
        if parameter not in parameters:
            left_out[ref.name] = "the live model has no parameter with this name"
            continue

        def read(ref: LayerRef = ref) -> list[Any]:
            base, tuned = source.both(ref)
            return [np.subtract(tuned, base, dtype=np.float32)]

        changes.append(Change(ref.name, parameter, source.refs(ref)[1], read))
    return changes, left_out


def _with_damage(
    tensors: list[QuantizedTensor], quantized: Any, live: LiveData, measure: int, draws: int, settings: Settings,
    progress: Progress | None,
) -> tuple[list[QuantizedTensor], dict[str, float]]:  # fmt: skip
    wanted = {t.name for t in tensors if t.numbers.get("finite") and t.numbers.get("relative_error")}
    changes, left_out = changes_of(quantized, live.model, wanted)
    found = predict_damage(
        live.model, live.examples, changes, loss=live.loss, draws=draws, seed=settings.seed, forward=live.forward,
        memory=usable_memory() // 2, progress=progress,
    )  # fmt: skip
    together = {"predicted": float(sum(damage.mean[0] for damage in found.values()))}
    measured: dict[str, tuple[float, float]] = {}
    if measure:
        worst = sorted(changes, key=lambda change: -found[change.name].mean[0])[:measure]
        cases = [[change] for change in worst] + [changes]
        results = measure_changes(
            live.model, live.held_out, cases, loss=live.loss, forward=live.forward, progress=progress
        )
        measured = {c.name: (r.mean, r.error) for c, r in zip(worst, results, strict=False)}
        together |= {"measured": results[-1].mean, "measured_error": results[-1].error}
    return [_add_damage(t, found, measured, left_out) for t in tensors], together


def _add_damage(
    tensor: QuantizedTensor, found: dict[str, Any], measured: dict[str, tuple[float, float]], left_out: dict[str, str]
) -> QuantizedTensor:  # fmt: skip
    if tensor.name in left_out:
        return replace(tensor, skipped=f"no damage predicted: {left_out[tensor.name]}")
    if tensor.name not in found:
        return tensor
    damage = found[tensor.name]
    value, error = measured.get(tensor.name, (None, None))
    return replace(
        tensor, damage=float(damage.mean[0]), damage_error=_finite(float(damage.error[0])), measured=value,
        measured_error=_finite(error),
    )  # fmt: skip


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
