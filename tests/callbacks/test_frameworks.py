"""Each callback in a real run of two epochs of its framework: same checks, same keys, stopping, the best weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layerscope
from tests.requirements import require

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"), pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"), pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]  # fmt: skip
KEY = "layerscope/alpha/mean"


def examples() -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((96, 60)).astype(np.float32)
    return x, (x[:, 0] > 0).astype(np.int64)


def torch_net(seed: int = 0) -> Any:
    torch: Any = require("torch")
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(60, 64), torch.nn.ReLU(), torch.nn.Linear(64, 2))


# --- Keras -----------------------------------------------------------------------------------------------------------


def keras_net() -> Any:
    keras: Any = require("keras")
    keras.utils.set_random_seed(0)
    layers = keras.layers
    net = keras.Sequential([layers.Input((60,)), layers.Dense(64, activation="relu"), layers.Dense(2)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    net.compile("sgd", loss, metrics=["accuracy"])
    return net


def test_keras_logs_and_keeps(tmp_path: Path) -> None:
    keras: Any = require("keras")
    from layerscope.callbacks.keras import LayerscopeCallback

    ours, csv = (
        LayerscopeCallback(path=tmp_path / "k.layerscope", budget=None),
        keras.callbacks.CSVLogger(tmp_path / "l"),
    )
    net, (x, y) = keras_net(), examples()
    logs = net.fit(x, y, epochs=2, verbose=0, callbacks=[ours, csv]).history
    now = layerscope.analyze(net).summary["metrics"]["alpha"]["mean"]
    assert logs[KEY][-1] == pytest.approx(now)
    assert len(logs[KEY]) == 2
    assert KEY in (tmp_path / "l").read_text()
    history = layerscope.History.load(tmp_path / "k.layerscope")
    assert history.steps == (0, 1)
    assert history.of_model("loss")[1] == pytest.approx(logs["loss"])
    assert history.of_model("accuracy")[1] == pytest.approx(logs["accuracy"])
    keras.utils.clear_session()


def test_keras_stops_and_restores() -> None:
    keras: Any = require("keras")
    from layerscope.callbacks.keras import LayerscopeCallback

    class Break(keras.callbacks.Callback):  # type: ignore[misc,name-defined]
        """After two batches the weights are lost."""

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if batch == 1:
                self.kept = [w.copy() for w in self.model.get_weights()]
            if batch == 2:
                self.model.set_weights([w * 100 for w in self.model.get_weights()])

    net, (x, y) = keras_net(), examples()
    stop = ["max(lambda_max) > 1000 for 2 checks"]
    ours, lost = LayerscopeCallback(batches=True, budget=None, stop_on=stop, best="min max(lambda_max)"), Break()
    net.fit(x, y, batch_size=8, epochs=9, verbose=0, callbacks=[lost, ours])
    assert ours.monitor is not None
    assert ours.monitor.now == 3  # of 108 batches
    assert "max(lambda_max)" in ours.monitor.stopped
    assert ours.monitor.best is not None
    assert ours.monitor.best.step < 2
    assert max(np.abs(w).max() for w in net.get_weights()) < 10
    keras.utils.clear_session()


# --- Hugging Face ----------------------------------------------------------------------------------------------------


def trainer(path: Path, report_to: str = "none", **options: Any) -> Any:
    transformers: Any = require("transformers")
    require("accelerate")
    torch: Any = require("torch")

    class Model(torch.nn.Module):  # type: ignore[misc,name-defined]
        """As the trainer wants it: a loss among its outputs."""

        def __init__(self) -> None:
            super().__init__()
            self.net = torch_net()

        def forward(self, x: Any, labels: Any) -> Any:
            logits = self.net(x)
            return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}

    x, y = examples()
    rows = [{"x": torch.from_numpy(a), "labels": torch.tensor(int(b))} for a, b in zip(x, y, strict=True)]
    args = transformers.TrainingArguments(
        str(path), num_train_epochs=2, per_device_train_batch_size=16, report_to=report_to, save_strategy="no",
        logging_steps=3, use_cpu=True, disable_tqdm=True, **options,
    )  # fmt: skip
    return transformers.Trainer(Model(), args, train_dataset=rows)


def test_huggingface_logs_and_keeps(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    from layerscope.callbacks.huggingface import LayerscopeCallback

    ours = LayerscopeCallback(every=4, path=tmp_path / "h.layerscope", budget=None).attach(run)
    run.train()
    logged = [entry for entry in run.state.log_history if KEY in entry]
    history = layerscope.History.load(tmp_path / "h.layerscope")
    assert history.steps == tuple(entry["step"] for entry in logged) == (1, 5, 9)
    values = [report.summary["metrics"]["alpha"]["mean"] for report in history.reports]
    assert [entry[KEY] for entry in logged] == pytest.approx(values)
    assert history.of_model("loss")[0] == (5, 9)  # the trainer logs its loss every third step
    assert ours.monitor is not None
    assert ours.monitor.model is run.model


def test_huggingface_stops_without_being_attached(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    from layerscope.callbacks.huggingface import LayerscopeCallback

    ours = LayerscopeCallback(every=1, budget=None, stop_on=["max(stable_rank) > 0 for 3 checks"])
    run.add_callback(ours)
    run.train()
    assert run.state.global_step == 3


# --- Lightning -------------------------------------------------------------------------------------------------------


def module() -> Any:
    lightning: Any = require("lightning.pytorch")
    torch: Any = require("torch")

    class Module(lightning.LightningModule):  # type: ignore[misc,name-defined]
        """A classifier."""

        def __init__(self) -> None:
            super().__init__()
            self.net = torch_net()

        def training_step(self, batch: Any, _: int) -> Any:
            loss = torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])
            self.log("loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.1)

    return Module()


def fitted(folder: Path, logger: Any = False, **options: Any) -> tuple[Any, Any, Any]:
    lightning: Any = require("lightning.pytorch")
    torch: Any = require("torch")
    from layerscope.callbacks.lightning import LayerscopeCallback

    ours = LayerscopeCallback(every=4, budget=None, **options)
    x, y = examples()
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(y)), 16)
    run = lightning.Trainer(
        max_epochs=2, callbacks=[ours], logger=logger, default_root_dir=folder, accelerator="cpu", log_every_n_steps=1,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    net = module()
    run.fit(net, data)
    return run, net, ours


def test_lightning_logs_and_keeps(tmp_path: Path) -> None:
    run, net, ours = fitted(tmp_path, path=tmp_path / "l.layerscope")
    history = layerscope.History.load(tmp_path / "l.layerscope")
    assert history.steps == (0, 4, 8)
    values = history.series("alpha", "net.0.weight")[1]
    assert float(run.callback_metrics["layerscope/alpha/net.0.weight"]) == pytest.approx(values[-1])
    assert len(history.of_model("loss")[1]) >= 2
    assert ours.monitor.model is net


def test_a_tracker_that_refuses_ends_no_run(tmp_path: Path) -> None:
    loggers: Any = require("lightning.pytorch.loggers")

    class Refusing(loggers.CSVLogger):  # type: ignore[misc,name-defined]
        """Takes no more than it knows."""

        def log_metrics(self, metrics: Any, step: Any = None) -> None:
            if KEY in metrics:
                raise ConnectionError("the server is away")

    with pytest.warns(
        layerscope.LayerscopeWarning,
        match="Refusing rejected the metrics of layerscope: ConnectionError: the server is",
    ):
        run, _, _ = fitted(tmp_path, Refusing(tmp_path), path=tmp_path / "l.layerscope")
    assert run.global_step == 12
    assert layerscope.History.load(tmp_path / "l.layerscope").steps == (0, 4, 8)


def test_lightning_stops(tmp_path: Path) -> None:
    run, _, _ = fitted(tmp_path, stop_on=["max(stable_rank) > 0 for 2 checks"])
    assert run.global_step == 5


# --- plain loops -----------------------------------------------------------------------------------------------------


def test_an_optimizer_carries_the_monitor() -> None:
    torch: Any = require("torch")
    from layerscope.callbacks.torch import ride

    net, seen = torch_net(), []
    optimizer, monitor = torch.optim.Adam(net.parameters()), layerscope.Monitor(net, every=3, budget=None)
    handle = ride(optimizer, monitor, lambda check: seen.append(check.metrics[KEY]))
    x, y = (torch.from_numpy(part) for part in examples())
    for _ in range(7):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    assert monitor.history.steps == (0, 3, 6)
    assert seen[-1] == pytest.approx(layerscope.analyze(net).summary["metrics"]["alpha"]["mean"])
    handle.remove()
    optimizer.step()
    assert monitor.now == 6


def test_a_jitted_step_of_optax_is_watched() -> None:
    jax: Any = require("jax")
    optax: Any = require("optax")
    from flax import linen

    from layerscope.callbacks.optax import watched

    class Net(linen.Module):  # type: ignore[misc,name-defined]
        """Two layers."""

        @linen.compact
        def __call__(self, x: Any) -> Any:
            return linen.Dense(2)(linen.relu(linen.Dense(64)(x)))

    net, (x, y) = Net(), examples()
    params = net.init(jax.random.PRNGKey(0), x)
    optimizer = optax.sgd(0.1)
    state = optimizer.init(params)

    @jax.jit
    def update(params: Any, state: Any, x: Any, y: Any) -> Any:
        def loss_of(p: Any) -> Any:
            return optax.softmax_cross_entropy_with_integer_labels(net.apply(p, x), y).mean()

        loss, grads = jax.value_and_grad(loss_of)(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), loss, state

    monitor = layerscope.Monitor(params, every=12, budget=None, best="min loss", lenses=("spectra", "landscape"))
    step = watched(update, monitor)
    for _ in range(2):  # epochs
        for i in range(0, 96, 8):
            params, _, state = step(params, state, x[i : i + 8], y[i : i + 8])
    history = monitor.history
    assert history.steps == (0, 12)
    assert len(history.of_model("loss")[1]) == 2
    assert history.of_model("distance_from_start")[1][0] > 0
    (name,) = [row.name for row in history.last.rows if not row.skipped and row.ref.shape == (60, 64)]
    assert name.endswith("Dense_1.kernel")
    best = monitor.restore()
    assert jax.tree_util.tree_structure(best) == jax.tree_util.tree_structure(params)
