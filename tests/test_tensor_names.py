"""Names of one layer in checkpoints of different frameworks, wrappers and formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import layerscope
from layerscope.tensor_names import matching_keys, strip_wrapper_prefixes
from tests.requirements import require


@pytest.mark.parametrize(
    "name",
    [
        "module.layers.0.fc.weight", "_orig_mod.module.layers.0.fc.weight", "module._orig_mod.layers.0.fc.weight",
        "_forward_module.layers._orig_mod.0.fc.weight", "_fsdp_wrapped_module.layers.0._fsdp_wrapped_module.fc.weight",
        "layers.0._checkpoint_wrapped_module.fc.weight", "model._orig_mod.layers.0.fc.weight",
    ],
)  # fmt: skip
def test_wrappers_in_any_nesting(name: str) -> None:
    assert strip_wrapper_prefixes(name) == "layers.0.fc.weight"


def test_names_that_only_look_like_wrappers_stay() -> None:
    for name in ("encoder.module.weight", "my_orig_mod.weight", "modules.0.weight"):
        assert strip_wrapper_prefixes(name) == name


BERT = [f"encoder.layer.{i}.{part}.weight" for i in range(3) for part in ("query", "output.dense")]


@pytest.mark.parametrize("prefix", ["bert.", "model.", "model.language_model.", "base_model.model.bert."])
def test_a_prefix_on_one_side(prefix: str) -> None:
    longer = [*(f"{prefix}{name}" for name in BERT), "classifier.weight"]
    for one, other in ((BERT, longer), (longer, BERT)):
        first, second = matching_keys(one, other)
        assert len(set(first.values()) & set(second.values())) == len(BERT)


def test_different_prefixes_on_both_sides_and_three_models() -> None:
    one, other = [f"model.{name}" for name in BERT], [f"bert.{name}" for name in BERT]
    keys = matching_keys(one, other, BERT)
    assert set.intersection(*(set(key_by_name.values()) for key_by_name in keys)) == set(BERT)


def test_equal_names_are_not_touched() -> None:
    names = [f"model.{name}" for name in BERT]
    assert matching_keys(names, [*names, "head.weight"])[0] == {name: name for name in names}
    assert matching_keys(["a.weight"], ["b.weight"]) == [{"a.weight": "a.weight"}, {"b.weight": "b.weight"}]
    assert matching_keys([], ["b.weight"]) == [{}, {"b.weight": "b.weight"}]


def test_blocks_are_not_shifted_onto_each_other() -> None:
    one = [f"layers.{i}.{part}.weight" for i in (0, 1) for part in "ab"]
    other = [f"layers.{i}.{part}.weight" for i in (1, 2) for part in "ab"]
    first, second = matching_keys(one, other)
    assert set(first.values()) & set(second.values()) == {"layers.1.a.weight", "layers.1.b.weight"}


def test_names_that_would_collide_keep_their_prefix() -> None:
    both = ["a.fc.weight", "a.out.weight", "fc.weight"]
    first, _ = matching_keys(both, ["out.weight", "fc.weight"])
    assert len(set(first.values())) == 3


def test_compare_distances_and_base_match_alike(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    plain = {name: rng.standard_normal((60, 50)) for name in BERT}
    tuned = {f"_orig_mod.module.bert.{name}": value + 0.01 for name, value in plain.items()}
    assert len(layerscope.compare(plain, tuned).layers) == len(BERT)
    assert layerscope.distances({"A": plain, "B": tuned}).matrix("l2")[0, 1] == pytest.approx(
        0.01 * np.sqrt(60 * 50 * len(BERT)), rel=1e-9
    )
    delta = layerscope.describe(tuned, base=plain)
    assert sum(not row.skipped for row in delta.rows) == len(BERT)


@pytest.mark.parametrize("separator", [".", "/"])
def test_the_counters_of_keras_begin_again(separator: str) -> None:
    def names(first: int, count: int) -> list[str]:
        layers = [f"dense_{i}" if i else "dense" for i in range(first, first + count)]
        return [
            f"{layer}{separator}{part}" for layer in [f"conv2d_{first + 3}", *layers] for part in ("kernel", "bias")
        ]

    ours, theirs = matching_keys(names(0, 3), names(9, 3))
    assert list(ours.values()) == list(theirs.values())
    assert len(set(ours.values())) == 8


def test_counters_of_models_with_other_layers_are_not_guessed() -> None:
    ours, theirs = matching_keys(["dense_1.kernel", "dense_2.kernel"], ["dense_4.kernel", "dense_5.kernel", "x.kernel"])
    assert list(ours.values()) == list(theirs.values())[:2]  # the same two layers, and one more
    ours, theirs = matching_keys(["dense_1.kernel", "dense_2.kernel"], ["dense_4.kernel", "relu_5.kernel"])
    assert not set(ours.values()) & set(theirs.values())


@pytest.mark.parametrize("prefix", ["model.", "module._orig_mod.", "net.", "model.language_model."])
def test_lines_and_basins_match_names_as_comparisons_do(tmp_path: Path, prefix: str) -> None:
    torch = require("torch")
    torch.manual_seed(0)
    nets = [torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)) for _ in range(2)]
    x, y = torch.randn(40, 6), torch.randint(3, (40,))
    torch.save({f"{prefix}{name}": value for name, value in nets[1].state_dict().items()}, tmp_path / "b.pt")
    evaluate = layerscope.TorchEvaluator(nets[0], (x, y))
    lines = [layerscope.line(nets[0], b, evaluate, points=5) for b in (nets[1], tmp_path / "b.pt")]
    np.testing.assert_array_equal(lines[0].metrics["loss"], lines[1].metrics["loss"])
    basins = layerscope.basins({"a": nets[0], "b": tmp_path / "b.pt"}, evaluate, points=3)
    assert basins.names == ("a", "b")
