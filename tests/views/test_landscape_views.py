"""Records of the landscape as text, pictures, pages and commands."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layerscope
from layerscope.views.page import writing
from layerscope.views.plots import drawing, landscape_pictures
from layerscope.views.plots.marks import picture_to_json
from tests.command_line import cli
from tests.requirements import require
from tests.samples import HOSTILE

torch: Any = require("torch")
from torch import nn  # noqa: E402

CODE = """
import torch
from torch import nn
torch.manual_seed(7)
X, Y = torch.randn(60, 6), torch.randint(3, (60,))
def build(): return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
def data(): return X, Y
def forward(model, x): return model(x)
def shuffled(output, labels): return torch.nn.functional.cross_entropy(output, labels, reduction="none")
"""


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    from safetensors.torch import save_file

    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(CODE)
    for seed, name in enumerate("abc"):
        torch.manual_seed(seed)
        parts = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)
        save_file(nn.Sequential(*parts).state_dict(), tmp_path / f"{name}.safetensors")
    return ["a.safetensors", "b.safetensors", "c.safetensors"]


def test_distances_from_the_command_line(files: list[str], tmp_path: Path) -> None:
    done = cli("distances", *files, "--html", "d.html", "-o", "d.png")
    assert (done.returncode, done.stderr) == (0, "")
    assert "3 models, 6 tensors" in done.stdout
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    assert (tmp_path / "d.png").stat().st_size > 5000
    assert (
        "nothing in common" in (tmp_path / "d.html").read_text("utf-8")
        or "symmetric" in (tmp_path / "d.html").read_text()
    )
    plain = json.loads(cli("distances", *files, "-f", "json").stdout)
    seen = cli("distances", *files[1:], "--origin", files[0], "--kind", "centred")
    assert (seen.returncode, "l2 distance from a.safetensors" in seen.stdout) == (0, True)
    refused = cli("distances", *files, "--kind", "centred")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    rows = list(csv.reader(io.StringIO(cli("distances", *files, "-f", "csv").stdout)))
    assert rows[0] == ["model", "a", "b", "c"]
    assert float(rows[1][2]) == pytest.approx(plain["l2"][0][1])
    assert layerscope.distances(files).matrix()[0, 1] == pytest.approx(plain["l2"][0][1])


def test_lines_planes_basins_and_paths_from_the_command_line(files: list[str], tmp_path: Path) -> None:
    of = ("mine:build", *files, "--data", "mine:data", "-q")
    two = ("mine:build", *files[:2], "--data", "mine:data", "-q")
    for words, said in (
        (("line", *of, "--span", "-1", "2", "--html", "l.html", "-o", "l.svg"), "loss barrier"),
        (
            ("plane", *of, "--u", "0", "1", "3", "--v", "0", "1", "3", "--html", "p.html", "-o", "p.png"),
            "best accuracy",
        ),
        (("plane", "mine:build", files[0], "--data", "mine:data", "-q", "--u", "-1", "1", "3"), "angle between"),
        (("basins", *of, "--points", "3", "--html", "b.html", "--loss", "mine:shuffled"), "basin"),
        (("path", *two, "--train", "mine:data", "--steps", "5", "--html", "c.html"), "straight"),
        (("line", *two, "--json", "--points", "3"), '"barrier"'),
        (("line", *two, "--points", "3", "--engine", "threads", "--examples", "30"), "30 examples"),
        (("line", *two, "--points", "3", "--forward", "mine:forward"), "loss barrier"),
        (("line", *of, "--points", "3", "--repair", "--loss", "mine:shuffled"), "no linear layer"),
        (("run", *of, "--points", "3", "-o", "r.png", "--html", "r.html"), "of the run's variance"),
        (
            (
                "plane",
                "mine:build",
                files[0],
                "--data",
                "mine:data",
                "-q",
                "--u",
                "-1",
                "1",
                "3",
                "--directions",
                "hessian",
                "--surface",
                "-o",
                "s.png",
            ),
            "angle between",
        ),
        (("basins", *two, "--points", "3", "--sharpness"), "adaptive"),
    ):
        done = cli("landscape", *words)
        if "--repair" in words:  # its one hidden layer stands before a norm
            assert (done.returncode, said in done.stderr) == (2, True), done.stderr
            continue
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        assert said in done.stdout
    for name in ("l", "p", "b", "c", "r"):
        assert "layerscope" in (tmp_path / f"{name}.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("line", "mine:build", "a.safetensors", "--data", "mine:data"), 2, "expected 2 models or more, got 1"),
        (("plane", "mine:build", "a.safetensors", "b.safetensors", "--data", "mine:data"), 2, "three models"),
        (("line", "mine:build", "a.safetensors", "nowhere.pt", "--data", "mine:data"), 3, "nowhere.pt"),
        (("line", "mine:bild", "a.safetensors", "b.safetensors", "--data", "mine:data"), 3, "did you mean 'build'"),
        (("line", "mine:build", "a.safetensors", "b.safetensors", "--data", "mine:data", "--points", "1"), 2, "points"),
        (("line", "mine:build", "a.safetensors", "b.safetensors", "--data", "mine:data", "-o", "x.gif"), 2, "gif"),
        (
            ("line", "mine:build", "a.safetensors", "b.safetensors", "--data", "mine:data", "--device", "tpu9"),
            2,
            "tpu9",
        ),
    ],
)
def test_what_is_wrong_is_one_line(words: tuple[str, ...], code: int, said: str, files: list[str]) -> None:
    done = cli("landscape", *words, "-q")
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def bowl(weights: Any) -> dict[str, float]:
    return {"loss": float(np.square(weights["w"]).sum()), "accuracy": float(1 / (1 + np.square(weights["w"]).sum()))}


def test_hostile_names_are_text() -> None:
    rng = np.random.default_rng(0)
    names = list(HOSTILE)[:4]
    points = [{"w": rng.standard_normal(4)} for _ in names]
    lines = [
        layerscope.line(points[0], p, bowl, points=5, names=(names[0], n))
        for p, n in zip(points[1:], names[1:], strict=True)
    ]
    plane = layerscope.plane(*points[:3], bowl, u=(0, 1, 3), v=(0, 1, 3), names=tuple(names[:3]))
    found = layerscope.distances(dict(zip(names, points, strict=True)))
    for record in (lines, plane, found):
        text = writing.render_page(record)
        assert "<img" not in text.replace("&lt;img", "")
        assert "<script>alert" not in text
    for record in (*lines, plane, found):
        assert repr(record)
        assert repr(record).isprintable() or "\x1b" not in repr(record)
    json.dumps(picture_to_json(landscape_pictures.plane_picture(plane)), allow_nan=False)


def test_pictures_say_what_is_there(tmp_path: Path) -> None:
    a, b, c = ({"w": np.array(v)} for v in ([1.0, 0.0], [0.0, 1.0], [-1.0, 0.5]))

    def holed(weights: Any) -> dict[str, float]:
        return {"loss": float("nan")} if weights["w"][1] > 0.9 else bowl(weights)

    plane = layerscope.plane(a, b, c, holed, u=(0, 1, 5), v=(0, 1, 5))
    picture = landscape_pictures.plane_picture(plane, "loss")
    assert picture.marks[0].values[0] == pytest.approx(plane.metrics["loss"][0], nan_ok=True)
    assert any("hatched" in note for note in picture.notes)
    drawing.save_figure(plane.plot("loss"), tmp_path / "p.png")
    line = layerscope.line(a, b, holed, points=9)
    picture = landscape_pictures.line_picture([line])
    assert picture.marks[0].y == pytest.approx(tuple(line.metrics["loss"]), nan_ok=True)
    drawing.save_figure(line.plot(), tmp_path / "l.svg")
    assert "without a value" in repr(line)
