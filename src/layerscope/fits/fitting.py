"""Fit every family that is asked for to one spectrum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from layerscope import registry
from layerscope.errors import Absent
from layerscope.numerics.spectrum import Spectrum
from layerscope.records.layers import Fit
from layerscope.settings import Settings


def check(families: Sequence[str]) -> None:
    """Every name is a family's.

    :raises UnknownName: one is not.
    """
    for name in families:
        registry.find("fits", name)


def fit_all(spectrum: Spectrum, settings: Settings, families: Sequence[str] | None = None) -> dict[str, Fit]:
    """Every one of ``families``, by default those of ``settings.fits``; what one builds on comes first."""
    done: dict[str, Fit] = {}
    wanted = settings.fits if families is None else families
    for name in wanted:
        _fit(registry.find("fits", name), spectrum, settings, done)
    return {name: done[name] for name in wanted}


def _fit(plugin: registry.Plugin, spectrum: Spectrum, settings: Settings, done: dict[str, Fit]) -> Fit:
    if plugin.name in done:
        return done[plugin.name]
    facts: dict[str, Any] = {"spectrum": spectrum, "settings": settings}
    failed: Mapping[str, Fit] = {}
    for need in plugin.needs:
        if need not in facts:
            facts[need] = _fit(registry.find("fits", need), spectrum, settings, done)
            failed = failed if facts[need].ok else {need: facts[need]}
    if failed:
        fit = Fit(plugin.name, ok=False, reason=next(iter(failed.values())).reason)
    else:
        try:
            fit = registry.call(plugin, facts)
        except Absent as why:
            fit = Fit(plugin.name, ok=False, reason=str(why))
    done[plugin.name] = fit
    return fit
