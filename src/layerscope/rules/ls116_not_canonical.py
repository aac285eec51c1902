"""Rule LS116: a verdict about the shape of the spectrum does not survive a change that leaves the function as it is."""

from __future__ import annotations

from dataclasses import replace

from layerscope import registry
from layerscope.metrics import computing
from layerscope.records.findings import Verdict
from layerscope.records.layers import LayerReport
from layerscope.rules import rule
from layerscope.settings import Settings


@rule(
    "LS116",
    "depends on the scale of units",
    severity="info",
    needs=("alpha_canonical",),
    own=True,
    ref="Dinh et al., ICML 2017 (§5: a measure of the weights should not change with reparametrization)",
)
def not_canonical(layer: LayerReport, settings: Settings) -> Verdict | None:
    """A verdict about the shape of the spectrum was withdrawn, because an equivalent layer does not get it.

    **What it means.** Another layer computes the same function: with its batch norm folded in, with balanced hidden
    units, or with WqᵀWk and WoWv in place of the projections. A verdict that only one of them gets says nothing about
    the function.

    **Evidence.** α of the layer as stored and of its canonical form (analyze with canonical=True or --canonical).

    **Caveats.** Only batch norms, gated MLPs, attention heads of known number and plain chains have a canonical form
    here. Balancing a plain chain assumes activations such as ReLU, which a file does not name.

    **What to try.** Rely on what both forms show. layerscope compare shows whether the function changed.
    """
    codes = withdrawn_verdicts(layer, settings)
    if not codes:
        return None
    how, alpha = layer.parts["canonical"].ref.how, float(layer.metrics["alpha_canonical"])
    message = (
        f"{' and '.join(codes)} withdrawn: α is {layer.metrics['alpha']:.2f} as stored and {alpha:.2f} in canonical "
        f"form ({how}), which computes the same function. Rely on what both forms show."
    )
    return Verdict(message, layer.metrics["alpha"], alpha)


def withdrawn_verdicts(layer: LayerReport, settings: Settings) -> list[str]:
    """Return the codes of the verdicts about shape that the layer gets as stored, but not in its canonical form."""
    part = layer.parts.get("canonical")
    if part is None or part.spectrum is None:
        return []
    equivalent = {"weight": replace(part, ref=replace(part.ref, role="weight"))}
    canonical = LayerReport(layer.name, equivalent, *computing.compute(equivalent, settings))
    return [
        plugin.name
        for plugin in sorted(registry.plugins("rules").values(), key=lambda plugin: plugin.name)
        if plugin.meta["shape"] and _applies(plugin, layer, settings) and not _applies(plugin, canonical, settings)
    ]


def _applies(plugin: registry.Plugin, layer: LayerReport, settings: Settings) -> bool:
    facts = {"layer": layer, "settings": settings}
    has_metrics = all(name in layer.metrics for name in plugin.meta["metrics"])
    return has_metrics and registry.call(plugin, facts) is not None
