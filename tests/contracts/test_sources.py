"""The same tiny net in every format gives the same report: names may differ, numbers may not."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

import layerscope
from layerscope import registry
from layerscope.records.report import Report
from layerscope.sources.opening import open_target
from layerscope.views import report_rows
from tests.nets import FORMATS, OTHER_NAMES, SAME_NAMES, Net, torch

# made of other sources, or of a run
COMPOSED = {"canonical", "chosen", "factors_torch", "delta", "intra", "lora", "pairs", "stacked"}
SEVERAL = {"diffusers"}  # a folder of several models: tests/sources/readers/test_diffusers.py
KEPT = ("alpha", "lambda_max", "stable_rank", "entropy", "log_norm", "num_evals", "N", "M")


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(0)
    return Net()


@pytest.fixture(scope="module")
def reference(net: Net) -> Report:
    return layerscope.analyze(dict(net.state_dict()))


def test_every_source_is_in_the_contract() -> None:
    assert {source for source, _ in FORMATS.values()} | COMPOSED | SEVERAL == set(registry.plugins("sources"))


@pytest.mark.parametrize("name", FORMATS)
def test_exactly_one_reader_accepts_each_format(tmp_path: Path, net: Net, name: str) -> None:
    source, write = FORMATS[name]
    target = write(net, tmp_path)
    target = Path(target) if isinstance(target, str) else target
    assert [p.name for p in registry.plugins("sources").values() if p.target.accepts(target)] == [source]


@pytest.mark.parametrize("name", SAME_NAMES)
def test_the_same_net_gives_the_same_report(tmp_path: Path, net: Net, reference: Report, name: str) -> None:
    source, write = SAME_NAMES[name]
    report = layerscope.analyze(write(net, tmp_path))
    assert report.meta["format"] == source
    found, expected = ({row.name: row for row in r.rows} for r in (report, reference))
    assert found.keys() == expected.keys()
    for layer, row in expected.items():
        assert found[layer].metrics == row.metrics, layer
        assert found[layer].ref.kind == row.ref.kind
        assert bool(found[layer].skipped) == bool(row.skipped)


def numbers(report: Report) -> list[tuple[float, ...]]:
    """What was measured of each analysed layer, sorted."""
    rows = [row for row in report.rows if row.spectrum is not None]
    return sorted(tuple(float(row.metrics[name]) for name in KEPT if name in row.metrics) for row in rows)


@pytest.mark.parametrize("name", OTHER_NAMES)
def test_other_names_and_axes_give_the_same_numbers(tmp_path: Path, net: Net, reference: Report, name: str) -> None:
    source, write = OTHER_NAMES[name]
    report = layerscope.analyze(write(net, tmp_path))
    assert report.meta["format"] == source
    ours, theirs = numbers(report), numbers(reference)
    assert len(ours) == len(theirs)
    for mine, expected in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(expected, rel=1e-6)
    kinds = sorted(row.ref.kind for row in report.rows if row.spectrum is not None)
    flat = ("pytree", "msgpack", "orbax", "orbax zarr")  # Flax keeps the gates of an LSTM as dense layers
    wanted = sorted(row.ref.kind for row in reference.rows if row.spectrum is not None)
    plain = {"attention": "dense"} | ({"lstm": "dense"} if name in flat else {})
    assert sorted(plain.get(k, k) for k in kinds) == sorted(plain.get(k, k) for k in wanted)


@pytest.mark.parametrize("name", FORMATS)
def test_describe_needs_headers_only_and_agrees_with_analyze(tmp_path: Path, net: Net, name: str) -> None:
    target = FORMATS[name][1](net, tmp_path)
    described, analysed = layerscope.describe(target), layerscope.analyze(target)
    ours = report_rows.rows(described)
    theirs = report_rows.rows(analysed)
    for a, b in zip(ours, theirs, strict=True):
        assert {k: a[k] for k in ("layer_id", "name", "N", "M", "rf")} == {
            k: b[k] for k in ("layer_id", "name", "N", "M", "rf")
        }


@pytest.mark.parametrize("name", FORMATS)
def test_portable_sources_open_again_from_their_spec(tmp_path: Path, net: Net, name: str) -> None:
    source_name, write = FORMATS[name]
    source = open_target(write(net, tmp_path))
    assert source.spec.portable == registry.find("sources", source_name).target.PORTABLE
    if source.spec.portable:
        again: Any = registry.find("sources", source_name).target.open(pickle.loads(pickle.dumps(source.spec)).target)
        assert list(again.layers()) == list(source.layers())
    for ref in source.layers():
        assert json.dumps(ref.shape)
        assert pickle.loads(pickle.dumps(ref)) == ref


@pytest.mark.parametrize("name", FORMATS)
def test_every_tensor_appears_and_says_how_it_was_read(tmp_path: Path, net: Net, name: str) -> None:
    report = layerscope.describe(FORMATS[name][1](net, tmp_path))
    assert all(row.skipped or row.ref.axes for row in report.rows)
    parts = [row.ref.how for row in report.rows if row.ref.part is not None]
    assert all("split" in how for how in parts)
    across = [row.ref.how for row in report.rows if row.ref.axes == "io" and name not in ("onnx",)]
    assert all("(in, out)" in how or "einsum" in how for how in across)
