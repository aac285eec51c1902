"""Every plugin declares what it is, and is found."""

from __future__ import annotations

import inspect

import pytest

from layerscope import registry
from layerscope.errors import UnknownName
from layerscope.metrics import metric

RULES = registry.plugins("rules").values()
METRICS = registry.plugins("metrics").values()
ALL = [plugin for kind in registry.KINDS for plugin in registry.plugins(kind).values()]


@pytest.mark.parametrize("plugin", ALL, ids=lambda p: f"{p.kind}:{p.name}")
def test_every_plugin_says_what_it_is(plugin: registry.Plugin) -> None:
    assert plugin.title.endswith((".", ":")) or len(plugin.title) > 10
    assert plugin.file.endswith(".py")
    if plugin.kind in ("fits", "metrics", "rules"):
        assert plugin.meta["ref"], "a source is mandatory"


@pytest.mark.parametrize("rule", RULES, ids=lambda p: p.name)
def test_every_rule_explains_itself(rule: registry.Plugin) -> None:
    for section in ("What it means", "Evidence", "Caveats", "What to try"):
        if section == "What to try" and rule.meta["severity"] == "info":
            continue
        assert f"**{section}.**" in rule.doc
    assert set(rule.meta["metrics"]) <= set(registry.plugins("metrics"))
    assert rule.name.startswith("LS")
    file = rule.file.rpartition("/")[2]
    others = [other for other in RULES if other is not rule and other.file == rule.file]
    assert not others, f"{file} holds two verdicts"


@pytest.mark.parametrize("plugin", METRICS, ids=lambda p: p.name)
def test_every_metric_states_unit_format_and_averaging(plugin: registry.Plugin) -> None:
    assert set(plugin.meta) == {"unit", "ref", "fmt", "over_layers", "label"}
    assert plugin.meta["over_layers"] in ("mean", "")
    returns = inspect.signature(plugin.target).return_annotation
    assert returns in ("float", "int", "str")


def test_sources_and_engines_have_their_two_doors() -> None:
    for plugin in registry.plugins("sources").values():
        assert callable(plugin.target.accepts)
        assert callable(plugin.target.open)
        assert isinstance(plugin.target.PORTABLE, bool)
    for plugin in registry.plugins("engines").values():
        assert list(inspect.signature(plugin.target.run).parameters) == ["fn", "jobs", "workers", "memory"]


def test_unknown_fact_fails_at_import_with_its_place() -> None:
    def wrong(wieght: object) -> float:
        return 0.0

    with pytest.raises(TypeError, match=r"test_registry\.py:\d+: metric wrong needs 'wieght'"):
        metric(unit="", ref="none")(wrong)


def test_unknown_plugin_suggests_the_one_meant() -> None:
    with pytest.raises(UnknownName, match="did you mean 'processes'"):
        registry.find("engines", "prosesses")


def test_entry_points_add_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import ModuleType, SimpleNamespace

    module = ModuleType("their_engine")
    module.__doc__ = "An engine of somebody else."
    module.run = lambda *_: iter(())  # type: ignore[attr-defined]
    entry = SimpleNamespace(load=lambda: module)
    monkeypatch.setattr(
        "importlib.metadata.entry_points", lambda group: [entry] if group == "layerscope.engines" else []
    )
    registry.plugins.cache_clear()
    try:
        assert registry.find("engines", "their_engine").title == "An engine of somebody else."
    finally:
        registry.plugins.cache_clear()
