"""Lines between Keras models against Keras' own evaluation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import layerscope
from layerscope.errors import LayerscopeError
from layerscope.sources.model_weights import weights_of
from tests.requirements import require

keras: Any = require("keras")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def _numbered_anew() -> Any:
    yield
    keras.utils.clear_session()  # names that Keras makes up count on otherwise, in the tests of others too


def make(seed: int) -> Any:
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    net = keras.Sequential([
        layers.Input((6,)), layers.Dense(8), layers.BatchNormalization(), layers.ReLU(), layers.Dropout(0.5),
        layers.Dense(3, activation="softmax"),
    ])  # fmt: skip
    net(np.random.default_rng(seed).standard_normal((40, 6)) * (seed + 1), training=True)
    return net


@pytest.fixture
def data() -> Any:
    rng = np.random.default_rng(0)
    return rng.standard_normal((50, 6)).astype(np.float32), rng.integers(0, 3, 50)


def keras_loss(net: Any, data: Any) -> float:
    x, y = data
    out = keras.ops.convert_to_numpy(net(x, training=False)).astype(np.float64)
    return float(-np.log(out[np.arange(len(y)), y]).mean())


def test_ends_and_middle_are_those_of_the_models(data: Any) -> None:
    a, b = make(1), make(2)
    before = [w.copy() for w in a.get_weights()]
    line = layerscope.line(a, b, layerscope.KerasEvaluator(a, data, bn="interpolate"), points=3)
    middle = make(1)
    middle.set_weights([0.5 * p + 0.5 * q for p, q in zip(a.get_weights(), b.get_weights(), strict=True)])
    assert line.metrics["loss"] == pytest.approx([keras_loss(m, data) for m in (a, middle, b)], abs=1e-5)
    assert "accuracy" in line.metrics
    assert all(np.array_equal(x, y) for x, y in zip(before, a.get_weights(), strict=True))


def test_statistics_are_recomputed(data: Any) -> None:
    a = make(1)
    evaluate = layerscope.KerasEvaluator(a, data, calibrate=data[0][:30])
    value = evaluate(a).metrics["loss"]
    hidden = data[0][:30] @ a.get_weights()[0] + a.get_weights()[1]
    other = make(1)
    other.set_weights(a.get_weights())
    norm = other.layers[1]
    norm.moving_mean.assign(hidden.mean(0))
    norm.moving_variance.assign(hidden.var(0))
    assert value == pytest.approx(keras_loss(other, data), abs=1e-4)
    assert evaluate.about["bn"] == "recompute"
    assert norm.momentum == evaluate._norms[0].momentum


def test_what_is_wrong_is_said(data: Any) -> None:
    a, (x, y) = make(1), data
    for call, said in (
        (lambda: layerscope.KerasEvaluator(a, data, bn="mixed"), "no batch-norm policy"),
        (lambda: layerscope.KerasEvaluator(a, data, "nll"), "no loss"),
        (lambda: layerscope.KerasEvaluator(a, (x, y[:5])), "same number of examples"),
        (lambda: layerscope.KerasEvaluator(a, (x, y + 9))(a), "labels range from 9"),
        (lambda: layerscope.KerasEvaluator(a, (x[:, :2], y))(a), "the model"),
    ):
        with pytest.raises(LayerscopeError, match=said):
            call()


def mixed(a: Any, b: Any, t: float) -> Any:
    net = make(1)
    net.set_weights([(1 - t) * p + t * q for p, q in zip(a.get_weights(), b.get_weights(), strict=True)])
    return net


def test_every_policy_is_what_it_says(data: Any) -> None:
    a, b = make(1), make(3)
    lines = {
        bn: layerscope.line(a, b, layerscope.KerasEvaluator(a, data, bn=bn), points=3, span=(-1, 1))
        for bn in ("interpolate", "keep", "batch")
    }
    inside = mixed(a, b, 0.0)
    assert lines["interpolate"].metrics["loss"][1] == pytest.approx(keras_loss(inside, data), abs=1e-5)
    kept = mixed(a, b, 1.0)
    for name in ("moving_mean", "moving_variance"):
        getattr(kept.layers[1], name).assign(getattr(a.layers[1], name))
    assert lines["keep"].metrics["loss"][2] == pytest.approx(keras_loss(kept, data), abs=1e-5)
    own = mixed(a, b, 1.0)
    hidden = data[0] @ own.get_weights()[0] + own.get_weights()[1]
    own.layers[1].moving_mean.assign(hidden.mean(0))
    own.layers[1].moving_variance.assign(hidden.var(0))
    assert lines["batch"].metrics["loss"][2] == pytest.approx(keras_loss(own, data), abs=1e-4)
    far = layerscope.line(a, b, layerscope.KerasEvaluator(a, data, bn="interpolate"), points=3, span=(-60, 1))
    assert far.clamped > 0  # the other model's variances are larger


def test_basins_of_keras_models(data: Any) -> None:
    a, b = make(1), make(1)
    x, _ = data
    sure = [8 * w if w.shape == (8, 3) else w for w in a.get_weights()]
    a.set_weights(sure)
    b.set_weights([w[::-1] if w.shape == (8, 3) else w[..., ::-1] if w.shape[-1] == 8 else w for w in sure])
    y = keras.ops.convert_to_numpy(a(x, training=False)).argmax(1)
    evaluate = layerscope.KerasEvaluator(a, (x, y))
    found = layerscope.basins({"a": a, "copy": mixed(a, b, 0.02), "b": b}, evaluate, points=5)
    assert ("a", "copy") in found.clusters
    assert set(found.barriers) == {"recompute", "interpolate"}
    assert found.functions["disagreement"][0, 2] == 0  # it is the first one in another order
    assert found.functions["js"][0, 2] == pytest.approx(0, abs=1e-6) != found.functions["js"][0, 1]
    assert found.about.get("not aligned") == (
        "only PyTorch models can be aligned without groups=" if len(found.clusters) > 1 else None
    )


def test_a_plane_is_stored_and_gone_on_with(data: Any, tmp_path: Any) -> None:
    a, b, c = make(1), make(2), make(3)
    evaluate, how = layerscope.KerasEvaluator(a, data), {"u": (0, 1, 3), "v": (0, 1, 3), "store": tmp_path / "k.zip"}
    one = layerscope.plane(a, b, c, evaluate, **how)
    seen: list[int] = []
    other = layerscope.plane(a, b, c, evaluate, progress=lambda done, *_: seen.append(done), **how)
    assert not seen
    assert np.array_equal(one.metrics["loss"], other.metrics["loss"])
    with pytest.raises(LayerscopeError, match="another grid"):
        layerscope.plane(a, b, c, layerscope.KerasEvaluator(a, data, bn="keep"), **how)


def dense(seed: int) -> Any:
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    hidden = layers.Dense(8, activation="relu"), layers.Dense(8, activation="relu")
    return keras.Sequential([layers.Input((6,)), *hidden, layers.Dense(3, activation="softmax")])


def test_basins_align_keras_models_by_declared_groups(data: Any) -> None:
    a, b = dense(1), dense(1)
    rng = np.random.default_rng(0)
    one, two, weights = rng.permutation(8), rng.permutation(8), a.get_weights()
    shuffled = [weights[0][:, one], weights[1][one], weights[2][one][:, two], weights[3][two], weights[4][two]]
    b.set_weights([*shuffled, weights[5]])
    names = list(weights_of(a))
    groups = [{names[0]: 1, names[1]: 0, names[2]: 0}, {names[2]: 1, names[3]: 0, names[4]: 0}]
    evaluate = layerscope.KerasEvaluator(a, data)
    how: Any = {"points": 5, "tolerance": 1e-6}
    plain = layerscope.basins({"A": a, "B": b}, evaluate, **how)
    assert len(plain.clusters) == 2
    assert plain.about["not aligned"] == "only PyTorch models can be aligned without groups="
    found = layerscope.basins({"A": a, "B": b}, evaluate, groups=groups, **how)
    assert found.aligned == (("A", "B"),)
    assert found.barriers["aligned"][0, 1] == pytest.approx(0, abs=1e-6)
    half = layerscope.basins({"A": a, "B": b}, evaluate, groups=groups[:1], **how)
    assert half.barriers["aligned"][0, 1] > 1e-3  # units of one layer alone
    wrong = layerscope.basins({"A": a, "B": b}, evaluate, groups=[{names[0]: 1}], **how)
    assert "add the missing axes to groups=" in wrong.about["not aligned"]
    moved = layerscope.align(None, a, b, groups=groups)
    assert moved.after == 0
    assert "output not checked" in repr(moved)
    with pytest.raises(LayerscopeError, match="needs groups="):
        layerscope.align(None, a, b)
