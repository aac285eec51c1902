"""What is analyzed: a model itself, its update from a base, products or a stack of its layers, its canonical form."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

from layerscope.errors import UsageError
from layerscope.settings import Settings
from layerscope.sources import targets
from layerscope.tensor_names import Selector


def check_arrangement(base: Any, arrangement: Mapping[str, bool], settings: Settings) -> None:
    """Check that a canonical form is asked for only where it is known.

    :raises UsageError: options contradict each other.
    """
    if not arrangement["canonical"]:
        return
    chosen = [name for name in ("intra", "stacked") if arrangement[name]]
    chosen += ["base"] if base is not None else []
    chosen += [name for name in ("per_head", "inverse") if getattr(settings, name)]
    chosen += ["pool=False"] if not settings.pool else []
    if chosen:
        raise UsageError(
            f"canonical and {chosen[0]} cannot be combined: only whole layers of one model have a canonical form"
        )


def compose_target(target: Any, base: Any, arrangement: Mapping[str, bool], part: str = "") -> Any:
    """Build the target to analyze: a weight update, a merged adapter, products, a stack, or the model itself."""
    from layerscope.sources.adapters import adapted_model
    from layerscope.sources.composed import canonical, chosen, products, stacks, update
    from layerscope.sources.readers import lora

    if arrangement["intra"] and arrangement["stacked"]:
        raise UsageError(
            "intra and stacked cannot be combined: choose intra for products of layers, "
            "or stacked for one matrix of all layers"
        )
    if part:
        target = chosen.Chosen(target, part)
    if base is not None:
        merges_adapter = lora.is_adapter(target) and not lora.is_adapter(base)
        target = adapted_model.Merged(target, base) if merges_adapter else update.Delta(target, base)
    if arrangement["intra"]:
        return products.Intra(target)
    if arrangement["stacked"]:
        return stacks.Stacked(target)
    return canonical.Canonical(target) if arrangement.get("canonical") else target


def describe_request(
    target: Any, layers: list[Selector] | None, base: Any, arrangement: Mapping[str, bool], part: str
) -> dict[str, Any]:
    """Return the arguments of the call apart from the settings, so that the analysis can be repeated from a report."""
    request: dict[str, Any] = {"layers": layers} if layers is not None else {}
    if base is not None or any(arrangement.values()) or part:
        request["target"] = targets.name_of(target)
    if part:
        request["select"] = part
    if base is not None:
        request["base"] = targets.name_of(base)
    request |= {name: True for name, value in arrangement.items() if value}
    live = not all(isinstance(x, str | PathLike) for x in (target, base) if x is not None)
    return request | ({"live": True} if live else {})
