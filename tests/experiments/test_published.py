"""The other experiments, shortened: deterministic, resumed, on any engine; they say what did not reproduce."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from layerscope.errors import LayerscopeError, TargetNotFound, UnknownName, Unreadable, UsageError
from layerscope.experiments import catalog, enough_data, overtrained_layer, rand_distance, repeated_runs
from layerscope.experiments.image_data import digits
from layerscope.views.plots import drawing
from tests.command_line import cli
from tests.requirements import require

require("torch")
require("sklearn")


@pytest.fixture(scope="module")
def few() -> Any:
    found = digits(0)
    return found._replace(x=found.x[:400], y=found.y[:400])


def test_the_layer_grows_a_heavier_tail_with_smaller_batches(few: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overtrained_layer, "MAX_EPOCHS", 12)
    found = overtrained_layer.run(few, batches=(32, 4, 1))
    falls = next(claim for claim in found.claims if claim.says.startswith("α of the layer falls"))
    assert falls.holds, found
    assert found.numbers["α, batch 1"] < found.numbers["α, batch 32"]
    rows = found.tables[0].rows
    assert [row[0] for row in rows] == [32, 4, 1]
    assert rows[0][4] == 0.89  # published


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_keras_trains_the_same_layer_alone(few: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    keras: Any = require("keras")
    monkeypatch.setattr(overtrained_layer, "MAX_EPOCHS", 2)
    found = overtrained_layer.measure(few, batch=32, seed=0, framework="keras")
    again = overtrained_layer.measure(few, batch=32, seed=0, framework="keras")
    assert found == again
    assert found["epochs"] == 2
    assert found["alpha"] > 1
    keras.utils.clear_session()
    with pytest.raises(UnknownName, match="framework"):
        overtrained_layer.run(few, framework="tensorflow")


def test_runs_are_deterministic_resumed_and_of_any_engine(few: Any, tmp_path: Path) -> None:
    store, seen = tmp_path / "runs.json", []
    one = rand_distance.run(few, epochs=2, store=store, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(n, 6) for n in range(1, 7)]
    told = json.loads(store.read_text())
    assert len(told["done"]) == 6
    told["done"].pop(next(iter(told["done"])))
    store.write_text(json.dumps(told))
    seen.clear()
    two = rand_distance.run(few, epochs=2, store=store, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(6, 6)]
    three = rand_distance.run(few, epochs=2, engine="processes")
    assert one.tables == two.tables == three.tables
    seen.clear()
    rand_distance.run(few._replace(x=few.x + 0.1), epochs=2, store=store, progress=lambda *done: seen.append(done))
    assert len(seen) == 6  # of other data nothing is known
    with pytest.raises(UsageError, match="another experiment"):
        overtrained_layer.run(few, store=store)
    store.write_text("{")
    with pytest.raises(Unreadable, match="not a file of stored runs"):
        rand_distance.run(few, epochs=2, store=store)


def test_published_numbers_stand_beside_ours(few: Any, tmp_path: Path) -> None:
    found = rand_distance.run(few, epochs=2)
    assert found.numbers["published ρ with loss"] == pytest.approx(1.0)
    assert "0.2167" in repr(found)
    assert all(len(line) <= 100 for line in repr(found).splitlines())
    drawing.save_figure(found.plot(), tmp_path / "r.png")
    found.html(tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text("utf-8")
    assert "claims of the published experiment hold" in text
    assert "0.2167" in text


def test_two_given_models_are_compared_as_in_the_figure(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def model(alpha: float) -> dict[str, Any]:
        found = {}
        for k in range(4):
            u, _, v = np.linalg.svd(rng.standard_normal((120, 100)), full_matrices=False)
            tail = (1 - rng.random(100)) ** (-1 / (alpha - 1))
            found[f"h.{k}.weight"] = (u * np.sqrt(np.sort(tail)[::-1])) @ v
        return found

    found = enough_data.run(models=(model(5.0), model(2.5)))
    assert next(claim for claim in found.claims if claim.figure == "α").holds
    assert found.numbers["median α, more"] < 3.5 < found.numbers["median α, less"]
    assert found.pictures


def test_little_text_makes_a_worse_model() -> None:
    text = "".join(chr(97 + k) for k in np.random.default_rng(0).zipf(1.3, 450_000).clip(max=26) - 1)
    with pytest.raises(TargetNotFound, match="no such text"):
        enough_data.text_of("nowhere.txt")
    net = enough_data.measure(text, characters=5000, seed=0, steps=3)
    assert np.isfinite(net["loss"])
    assert enough_data._unpack(net["weights"]["blocks.0.qkv.weight"]).shape == (384, 128)
    assert len(enough_data.text_of()) > 400_000  # of the standard library


def test_a_run_that_fails_ends_the_experiment_with_its_reason() -> None:
    def broken(data: Any, *, n: int) -> dict[str, Any]:
        raise UsageError(f"run {n} fails")

    with pytest.raises(UsageError, match="run 1 fails"):
        repeated_runs.run(broken, None, [{"n": 1}])
    with pytest.raises(UsageError, match="run 1 fails"):
        repeated_runs.run(broken, None, [{"n": 1}], engine="threads")


def test_experiments_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = cli("experiment", "rand-distance", "-q", "-o", "r.png", "--seeds", "2", "--store", "s.json")
    assert (done.returncode, done.stderr) == (0, "")
    assert "of 2 seeds:" in done.stdout
    done = cli("experiment", "rand-distance", "-q", "--html", "r.html", "-o", "r.png", "--store", "s.json")
    assert (done.returncode, done.stderr) == (0, "")
    assert "published" in done.stdout
    assert (tmp_path / "r.png").stat().st_size > 5000
    plain = json.loads(cli("experiment", "rand-distance", "-q", "--json").stdout)
    assert len(plain[0]["tables"][0]["rows"]) == 6
    for words, code, said in (
        (("rand-distanz",), 2, "did you mean 'rand-distance'"),
        (("rand-distance", "--framework", "keras"), 2, "takes no --framework"),
        (("rand-distance", "--data", "cifar"), 2, "Known: digits, fashion, mnist"),
        (("rand-distance", "--data", "mnist"), 3, "no idx files of mnist in mnist"),
        (("enough-data", "--data", "nowhere.txt"), 3, "no such text file"),
        (("enough-data", "--models", "a.pt", "b.pt"), 3, "a.pt"),
        (("rand-distance", "-o", "x.gif"), 2, "gif"),
    ):
        done = cli("experiment", *words, "-q")
        assert (done.returncode, said in done.stderr) == (code, True), done.stderr
        assert done.stderr.count("\n") == 1


def test_names_are_modules_that_run() -> None:
    for name in catalog.NAMES:
        assert callable(catalog.load(name).run)
    with pytest.raises(LayerscopeError, match="did you mean 'mountains'"):
        catalog.load("mountain")
