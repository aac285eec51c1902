"""Whether models can be merged: planted task vectors with known relations, and mergekit as the judge of its files."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import numpy as np
import pytest

import layerscope
from layerscope.errors import Unreadable, UsageError
from tests.command_line import cli
from tests.requirements import require

Arrays = dict[str, np.ndarray]
SHAPES = {"layers.0.fc.weight": (60, 40), "layers.1.fc.weight": (50, 60), "head.weight": (10, 50), "head.bias": (10,)}


def weights(seed: int = 0) -> Arrays:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


def moved(base: Arrays, deltas: Arrays) -> Arrays:
    return {name: (base[name] + deltas[name]).astype(np.float32) for name in base}


def small(seed: int, size: float = 0.05) -> Arrays:
    return {name: size * value for name, value in weights(seed).items()}


def flat(arrays: Arrays) -> np.ndarray:
    return np.concatenate([arrays[name].ravel().astype(np.float64) for name in SHAPES])


def codes(check: layerscope.MergeCheck) -> set[str]:
    return {finding.code for finding in check.findings}


def test_numbers_are_those_of_the_flat_task_vectors() -> None:
    base, first, second, third = weights(), small(1), small(2, 0.1), small(3)
    third = {name: 0.5 * first[name] + third[name] for name in third}
    models = [moved(base, deltas) for deltas in (first, second, third)]
    check = layerscope.merge_check(base, *models)
    vectors = np.array([flat(model) - flat(base) for model in models])
    norms = np.linalg.norm(vectors, axis=1)
    cosines = vectors @ vectors.T / np.outer(norms, norms)
    np.testing.assert_allclose(np.array(check.whole.cosines, float), cosines, atol=1e-6)
    assert check.whole.norms == pytest.approx(norms, rel=1e-6)
    assert check.whole.relative == pytest.approx(norms / np.linalg.norm(flat(base)), rel=1e-6)
    assert check.whole.interference == pytest.approx(np.linalg.norm(vectors.sum(0)) / norms.sum(), rel=1e-6)
    signs = np.sign(vectors)
    conflicts = ((signs > 0).any(0) & (signs < 0).any(0)).mean()
    assert check.whole.conflicts == pytest.approx(conflicts, abs=1e-4)
    assert [group.name for group in check.blocks] == ["block 0", "block 1", "outside blocks"]
    assert sum(group.norms[0] ** 2 for group in check.blocks) == pytest.approx(norms[0] ** 2, rel=1e-6)
    assert not codes(check)


def test_shared_subspaces_are_seen_and_independent_ones_are_at_chance() -> None:
    base, rng = weights(), np.random.default_rng(5)
    low = [rng.standard_normal((60, 10)) @ rng.standard_normal((10, 40)) for _ in range(2)]
    name = "layers.0.fc.weight"
    alike = [{**base, name: base[name] + scale * low[0]} for scale in (0.01, 0.02)]
    other = [{**base, name: base[name] + 0.01 * matrix} for matrix in low]
    found = [layerscope.merge_check(base, *pair).tensors[0] for pair in (alike, other)]
    assert found[0].name == found[1].name == name
    assert found[0].overlap == pytest.approx(1, abs=1e-3)
    assert found[1].overlap == pytest.approx(found[1].overlap_chance, abs=0.15)


def test_opposed_updates_one_that_dominates_and_other_bases_are_found() -> None:
    base, deltas = weights(), small(1)
    opposite = {name: -value for name, value in deltas.items()}
    assert codes(layerscope.merge_check(base, moved(base, deltas), moved(base, opposite))) == {"LS511"}
    assert codes(layerscope.merge_check(base, moved(base, deltas), moved(base, small(2, 0.5)))) == {"LS512"}
    assert "LS513" in codes(layerscope.merge_check(base, moved(base, deltas), weights(9)))
    check = layerscope.merge_check(base, moved(base, deltas), dict(base))
    assert "does not differ from the base" in next(f.message for f in check.findings if f.code == "LS513")


def test_what_does_not_fit_is_listed_before_the_rest_is_compared() -> None:
    base = weights()
    first, second = moved(base, small(1)), moved(base, small(2))
    second["head.weight"] = np.ones((12, 50), np.float32)
    second["extra.weight"] = np.ones((5, 5), np.float32)
    check = layerscope.merge_check(base, first, second)
    assert check.compared == 3
    assert any("head.weight: its shape is 12×50, but 10×50" in line for line in check.unfit)
    assert any("extra.weight: the base model has no tensor" in line for line in check.unfit)
    with pytest.raises(UsageError, match="at least two models"):
        layerscope.merge_check(base, first)
    with pytest.raises(Unreadable, match="NaN or infinite"):
        layerscope.merge_check(base, first, {**second, "head.bias": np.full(10, np.nan, np.float32)})


def test_with_data_the_losses_of_base_models_and_mean_are_measured() -> None:
    base = weights()
    first, second = moved(base, small(1)), moved(base, {name: -value for name, value in small(1).items()})

    def evaluate(model: Arrays) -> dict[str, float]:
        return {"loss": float(np.square(flat(model) - flat(first)).sum())}

    check = layerscope.merge_check(base, first, second, evaluate=evaluate)
    far = float(np.square(flat(base) - flat(first)).sum())
    losses = [values["loss"] for values in check.losses.values()]
    assert list(check.losses) == ["base", "mean", *check.names]
    assert losses == pytest.approx([far, far, 0, 4 * far], rel=1e-5, abs=1e-9)
    assert "LS514" in codes(check)


def save(folder: Path, name: str, arrays: Arrays) -> str:
    from safetensors.numpy import save_file

    save_file(arrays, folder / f"{name}.safetensors")
    return str(folder / f"{name}.safetensors")


def test_the_command_prints_text_json_and_an_exit_code(tmp_path: Path) -> None:
    base = weights()
    deltas = small(1)
    paths = [save(tmp_path, "base", base), save(tmp_path, "a", moved(base, deltas)),
             save(tmp_path, "b", moved(base, {name: -value for name, value in deltas.items()}))]  # fmt: skip
    for width in ("60", "100"):
        text = cli("merge-check", *paths, "-q", COLUMNS=width).stdout
        assert "The cosine of the updates is -1.00" in " ".join(text.split())
        assert "LS511 opposed updates" in text
    result = json.loads(cli("merge-check", *paths, "-q", "-f", "json").stdout)
    assert result["whole"]["cosines"][0][1] == pytest.approx(-1, abs=1e-5)
    assert cli("merge-check", *paths, "-q", "--fail-on", "warn").returncode == 1
    wrong = cli("merge-check", *paths, "-q", "--model", "m:f")
    assert wrong.returncode == 2
    assert "--model and --data belong together" in wrong.stderr


def test_the_command_measures_losses(tmp_path: Path) -> None:
    torch = require("torch")
    (tmp_path / "mine.py").write_text(
        textwrap.dedent(
            """
            import torch
            def build():
                return torch.nn.Linear(8, 3)
            def test():
                draw = torch.Generator().manual_seed(0)
                return torch.randn(40, 8, generator=draw), torch.randint(3, (40,), generator=draw)
            """
        )
    )
    paths = []
    for seed in range(3):
        torch.manual_seed(seed)
        torch.save(torch.nn.Linear(8, 3).state_dict(), tmp_path / f"{seed}.pt")
        paths.append(str(tmp_path / f"{seed}.pt"))
    done = cli("merge-check", *paths, "-q", "--model", "mine:build", "--data", "mine:test", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "mean" in done.stdout
    assert "loss" in done.stdout


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of mergekit's imports
@pytest.mark.parametrize("opposed", [False, True])
def test_mergekit_merges_what_was_written(tmp_path: Path, opposed: bool) -> None:
    require("mergekit")
    transformers = require("transformers")
    torch = require("torch")
    import yaml
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    config = transformers.LlamaConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=2, vocab_size=40,
                                      num_attention_heads=2, num_key_value_heads=2)  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config)
    model.save_pretrained(tmp_path / "base")
    start = {name: value.clone() for name, value in model.state_dict().items()}
    step = {name: 0.01 * torch.randn_like(value) for name, value in start.items()}
    for name, sign in (("a", 1), ("b", -1 if opposed else 1)):
        model.load_state_dict({key: value + sign * step[key] for key, value in start.items()})
        model.save_pretrained(tmp_path / name)
    folders = [str(tmp_path / name) for name in ("base", "a", "b")]
    written = cli("merge-check", *folders, "-q", "--emit", "mergekit").stdout
    parsed = MergeConfiguration.model_validate(yaml.safe_load(written))
    assert parsed.merge_method == ("ties" if opposed else "linear")
    run_merge(parsed, str(tmp_path / "out"), options=MergeOptions(copy_tokenizer=False, lazy_unpickle=False))
    merged = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    if not opposed:
        name = "model.layers.0.mlp.up_proj.weight"
        assert torch.allclose(merged[name].float(), start[name] + step[name], atol=2e-3)
