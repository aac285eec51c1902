"""Find plugins: decorated functions or whole modules, in layerscope's packages and in installed entry points."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import inspect
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from layerscope.errors import UnknownName

_PLUGIN_ATTRIBUTE = "__layerscope_plugin__"


@dataclass(frozen=True)
class Kind:
    """Where to find plugins of one kind, and how to recognize them."""

    packages: tuple[str, ...]  # packages to search with their subpackages, or single modules
    attribute: str = ""  # a module with this attribute is a plugin; "" if plugins are decorated functions
    noun: str = ""  # noun for messages; by default, the kind without its final s


KINDS = {
    "sources": Kind(
        (
            "layerscope.sources.readers",
            "layerscope.sources.composed",
            "layerscope.lenses.learning_statistics.factors_torch",
        ),
        attribute="PORTABLE",
    ),
    "fits": Kind(("layerscope.fits",)),
    "metrics": Kind(("layerscope.metrics",)),
    "rules": Kind(("layerscope.rules",)),
    "engines": Kind(("layerscope.engines",), attribute="run"),
    "plots": Kind(("layerscope.views.plots",), attribute="SCOPE", noun="picture"),
}


@dataclass(frozen=True)
class Plugin:
    """One source, fit, metric, rule, engine or picture, with the place of its code."""

    kind: str
    name: str
    target: Any  # the function or the module
    file: str
    line: int
    doc: str
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """First line of the docstring."""
        return self.doc.partition("\n")[0]

    @functools.cached_property
    def needs(self) -> tuple[str, ...]:
        """Names of the facts that it requires: parameters without a default."""
        return tuple(p.name for p in _parameters(self.target) if p.default is inspect.Parameter.empty)

    @functools.cached_property
    def wants(self) -> tuple[str, ...]:
        """Names of all facts that it accepts: all parameters."""
        return tuple(p.name for p in _parameters(self.target))


def mark(kind: str, name: str, **meta: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that marks a function as the plugin ``name`` of a kind."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        code = function.__code__
        doc = inspect.getdoc(function) or ""
        plugin = Plugin(kind, name, function, code.co_filename, code.co_firstlineno, doc, meta)
        setattr(function, _PLUGIN_ATTRIBUTE, plugin)
        return function

    return decorate


@functools.cache
def plugins(kind: str) -> dict[str, Plugin]:
    """Return all plugins of a kind by name: layerscope's own, then those of ``layerscope.<kind>`` entry points."""
    modules = [importlib.import_module(name) for package in KINDS[kind].packages for name in _module_names(package)]
    by_name: dict[str, Plugin] = {}
    for module in sorted(filter(functools.partial(_is_candidate, kind), modules), key=_plugin_name):
        _register(by_name, kind, _plugins_in_module(kind, module))
    for entry in importlib.metadata.entry_points(group=f"layerscope.{kind}"):
        _register(by_name, kind, _plugins_in_module(kind, entry.load()))
    return by_name


def find(kind: str, name: str) -> Plugin:
    """Return the plugin with a name.

    :raises UnknownName: there is no such plugin; the message suggests a similar name.
    """
    known = plugins(kind)
    if name not in known:
        raise UnknownName(KINDS[kind].noun or kind.removesuffix("s"), name, known)
    return known[name]


def call(plugin: Plugin, facts: Mapping[str, Any]) -> Any:
    """Call a plugin with those facts that its parameters name."""
    return plugin.target(**{name: facts[name] for name in plugin.wants if name in facts})


def _module_names(package: str) -> Iterator[str]:
    """Yield the names of all modules of a package and its subpackages, except those with a leading underscore."""
    path = getattr(importlib.import_module(package), "__path__", None)
    if path is None:
        yield package
    for info in pkgutil.iter_modules(path or ()):
        if info.name.startswith("_"):
            continue
        if info.ispkg:
            yield from _module_names(f"{package}.{info.name}")
        else:
            yield f"{package}.{info.name}"


def _is_candidate(kind: str, module: ModuleType) -> bool:
    attribute = KINDS[kind].attribute
    return not attribute or hasattr(module, attribute)


def _plugin_name(module: ModuleType) -> str:
    """Return the plugin name of a module: its ``PLUGIN_NAME`` if defined, otherwise the module name."""
    return str(getattr(module, "PLUGIN_NAME", module.__name__.rpartition(".")[2]))


def _register(by_name: dict[str, Plugin], kind: str, plugins: list[Plugin]) -> None:
    for plugin in plugins:
        if plugin.name in by_name:
            first = by_name[plugin.name]
            raise ImportError(f"two {kind} have the name {plugin.name!r}: {first.file} and {plugin.file}")
        by_name[plugin.name] = plugin


def _plugins_in_module(kind: str, module: ModuleType) -> list[Plugin]:
    if KINDS[kind].attribute:
        file = getattr(module, "__file__", None) or ""
        return [Plugin(kind, _plugin_name(module), module, file, 1, inspect.getdoc(module) or "")]
    marked = [getattr(value, _PLUGIN_ATTRIBUTE, None) for value in vars(module).values()]
    return [p for p in marked if p is not None and p.kind == kind and p.target.__module__ == module.__name__]


def _parameters(function: Callable[..., Any]) -> tuple[inspect.Parameter, ...]:
    return tuple(inspect.signature(function).parameters.values())
