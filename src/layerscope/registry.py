"""Finds plugins: functions marked by a decorator, or whole modules, in a package and in installed entry points."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from layerscope.errors import UnknownName

PACKAGES = {  # where the plugins of each kind lie
    "sources": "layerscope.sources",
    "fits": "layerscope.fits",
    "metrics": "layerscope.metrics",
    "rules": "layerscope.rules",
    "engines": "layerscope.engines",
    "plots": "layerscope.views.plots",
}
NOUNS = {"plots": "picture"}
MODULES = ("sources", "engines", "plots")  # kinds of which a plugin is a whole module
_MARK = "__layerscope_plugin__"


@dataclass(frozen=True)
class Plugin:
    """One source, fit, metric, rule, engine or picture and where it is written."""

    kind: str
    name: str
    target: Any  # the function, or the module
    file: str
    line: int
    doc: str
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """First line of its docstring."""
        return self.doc.partition("\n")[0]

    @functools.cached_property
    def needs(self) -> tuple[str, ...]:
        """Facts without which it cannot be called."""
        return tuple(p.name for p in _parameters(self.target) if p.default is inspect.Parameter.empty)

    @functools.cached_property
    def wants(self) -> tuple[str, ...]:
        """Every fact it can take."""
        return tuple(p.name for p in _parameters(self.target))


def mark(kind: str, name: str, **meta: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator that makes a function the plugin ``name`` of ``kind``."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        code = function.__code__
        doc = inspect.getdoc(function) or ""
        plugin = Plugin(kind, name, function, code.co_filename, code.co_firstlineno, doc, meta)
        setattr(function, _MARK, plugin)
        return function

    return decorate


@functools.cache
def plugins(kind: str) -> dict[str, Plugin]:
    """All plugins of a kind by name: the package's own, then those of ``layerscope.<kind>`` entry points."""
    package = importlib.import_module(PACKAGES[kind])
    modules = [
        importlib.import_module(f"{package.__name__}.{info.name}")
        for info in pkgutil.iter_modules(package.__path__)
        if not info.name.startswith("_")
    ]
    modules += [entry.load() for entry in importlib.metadata.entry_points(group=f"layerscope.{kind}")]
    found: dict[str, Plugin] = {}
    for module in modules:
        for plugin in _of_module(kind, module):
            if plugin.name in found:
                first = found[plugin.name]
                raise ImportError(f"two {kind} are called {plugin.name!r}: {first.file} and {plugin.file}")
            found[plugin.name] = plugin
    return found


def find(kind: str, name: str) -> Plugin:
    """The plugin of that name; a wrong name says which one was meant."""
    known = plugins(kind)
    if name not in known:
        raise UnknownName(NOUNS.get(kind, kind.removesuffix("s")), name, known)
    return known[name]


def call(plugin: Plugin, facts: Mapping[str, Any]) -> Any:
    """Call a plugin with the facts its parameters name."""
    return plugin.target(**{name: facts[name] for name in plugin.wants if name in facts})


def _of_module(kind: str, module: ModuleType) -> list[Plugin]:
    if kind in MODULES:
        name = module.__name__.rpartition(".")[2]
        return [Plugin(kind, name, module, getattr(module, "__file__", None) or "", 1, inspect.getdoc(module) or "")]
    marked = [getattr(value, _MARK, None) for value in vars(module).values()]
    return [p for p in marked if p is not None and p.kind == kind and p.target.__module__ == module.__name__]


def _parameters(function: Callable[..., Any]) -> tuple[inspect.Parameter, ...]:
    return tuple(inspect.signature(function).parameters.values())
