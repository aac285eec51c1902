"""Fit every requested family to one spectrum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from layerscope import registry
from layerscope.errors import Absent
from layerscope.numerics.spectrum import Spectrum
from layerscope.records.layers import Fit
from layerscope.settings import Settings


def check_families(families: Sequence[str]) -> None:
    """Check that every name is the name of a fit family.

    :raises UnknownName: if a family does not exist.
    """
    for name in families:
        registry.find("fits", name)


def fit_all(spectrum: Spectrum, settings: Settings, families: Sequence[str] | None = None) -> dict[str, Fit]:
    """Fit each of ``families`` (by default those of ``settings.fits``) and the families that they depend on."""
    fits: dict[str, Fit] = {}
    names = settings.fits if families is None else families
    for name in names:
        _fit_family(registry.find("fits", name), spectrum, settings, fits)
    return {name: fits[name] for name in names}


def _fit_family(plugin: registry.Plugin, spectrum: Spectrum, settings: Settings, fits: dict[str, Fit]) -> Fit:
    if plugin.name in fits:
        return fits[plugin.name]
    facts: dict[str, Any] = {"spectrum": spectrum, "settings": settings}
    failed_fits: Mapping[str, Fit] = {}
    for need in plugin.needs:
        if need not in facts:
            facts[need] = _fit_family(registry.find("fits", need), spectrum, settings, fits)
            failed_fits = failed_fits if facts[need].ok else {need: facts[need]}
    if failed_fits:
        fit = Fit(plugin.name, ok=False, reason=next(iter(failed_fits.values())).reason)
    else:
        try:
            fit = registry.call(plugin, facts)
        except Absent as absence:
            fit = Fit(plugin.name, ok=False, reason=str(absence))
    fits[plugin.name] = fit
    return fit
