"""What strangers send: one line, the right exit code, nothing else lost."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import layerscope
from layerscope import Settings
from layerscope.errors import Unreadable
from tests.command_line import cli

EVIL = [
    "\x1b[31mred\x1b]0;title\x07.weight",
    "new\nline\rreturn\x00nul.weight",
    "<img src=x onerror=alert(1)>.weight",
    "[bold]markup[/bold] {braces} |pipes| `ticks`.weight",
    "rtl\u202egnp.weight",
    "../../etc/passwd.weight",
    "=cmd|' /C calc'!A0.weight",
    "é漢字🎉.weight",
    "'\"\\.weight",
    "",
    "x" * 50_000 + ".weight",
]


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("names") / "evil.safetensors"
    save_file({name: rng.standard_normal((60, 60)).astype(np.float32) for name in EVIL}, path)
    return path


@pytest.mark.parametrize("command", ["analyze", "describe"])
@pytest.mark.parametrize("format_", ["table", "md", "csv", "json", "jsonl"])
def test_names_with_escapes_are_shown_not_obeyed(named: Path, command: str, format_: str) -> None:
    done = cli(command, named, "-f", format_, *(("-v",) if command == "analyze" else ()))
    assert done.returncode == 0, done.stderr
    if format_ in ("table", "md"):
        allowed = {"\n"}
        assert not [c for c in done.stdout if ord(c) < 32 and c not in allowed]
        assert "\u202e" not in done.stdout
        assert max(map(len, done.stdout.splitlines())) < 2000
    if format_ == "md":
        assert "<img" not in done.stdout
    if format_ in ("json", "jsonl"):
        text = done.stdout if format_ == "json" else "[" + ",".join(done.stdout.splitlines()) + "]"
        assert EVIL[0] in json.dumps(json.loads(text), ensure_ascii=False).replace("\\u001b", "\x1b").replace(
            "\\u0007", "\x07"
        )


def test_names_in_error_messages_are_escaped_and_short(tmp_path: Path, named: Path) -> None:
    for target in ("\x1b[31mno such file", "x" * 5000, "a\nb"):
        done = cli("analyze", target)
        assert done.returncode == 3
        assert done.stderr.count("\n") == 1
        assert "\x1b" not in done.stderr
        assert len(done.stderr) < 600


LAYERS = {
    "zero": np.zeros((80, 60)),
    "rank one": np.outer(np.arange(1, 81), np.ones(60)),
    "one by n": np.arange(1.0, 301)[None],
    "n by one": np.arange(1.0, 301)[:, None],
    "constant": np.full((80, 60), 7.0),
    "identity": np.eye(80),
    "tiny": np.random.default_rng(0).standard_normal((80, 60)) * 1e-30,
    "huge": np.random.default_rng(0).standard_normal((80, 60)) * 1e30,
    "subnormal": np.random.default_rng(0).standard_normal((80, 60)) * 1e-310,
    "nan": np.full((80, 60), np.nan),
    "inf": np.full((80, 60), np.inf),
    "one nan": np.where(np.eye(60, dtype=bool), np.nan, 1.0),
    "int8": np.ones((80, 60), np.int8),
    "bool": np.ones((80, 60), bool),
    "complex": np.ones((80, 60), complex),
    "empty": np.zeros((0, 60)),
    "scalar": np.array(3.0),
    "one": np.ones((1, 1)),
    "1x1 conv": np.random.default_rng(0).standard_normal((64, 64, 1, 1)),
    "text": np.array(["a", "b"]),
    "seven axes": np.ones((2,) * 7),
}


@pytest.mark.parametrize("evidence", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_hostile_layers_are_measured_or_have_a_reason(name: str, evidence: bool) -> None:
    settings = Settings(min_evals=2, min_tail=2, bootstrap=3)
    report = layerscope.analyze(
        {"bad": LAYERS[name], "good": np.diag(np.arange(1.0, 80))},
        settings=settings.with_evidence() if evidence else settings,
    )
    bad = report.layers["bad"]
    assert (bad.spectrum is None) == bool(bad.skipped)
    assert all(isinstance(v, str) or math.isfinite(v) for v in bad.metrics.values())
    assert "alpha" in report.layers["good"].metrics
    json.loads(report.to_json(), parse_constant=lambda c: pytest.fail(c))
    assert repr(report)
    assert report._repr_html_()
    if name in ("zero", "rank one", "constant"):
        assert "LS105" in {f.code for f in report.findings if f.layer == "bad"}
    if name in ("nan", "inf", "one nan"):
        assert bad.failed
        assert "of" in bad.skipped


OPTIONS = [
    {"randomize": True}, {"randomize": True, "conv": "flat"}, {"vectors": True}, {"window": 4}, {"inverse": True},
    {"pool": False, "randomize": True}, {"per_head": True}, {"fix_fingers": "clip_xmax"}, {"fix_fingers": "xmin_peak"},
    {"drop_top": 3}, {"max_evals": 55}, {"fits": ("mp_kde", "e_tpl", "fingers")}, {"stacked": True}, {"intra": True},
    {"base": True},
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_hostile_layers_under_every_option(name: str, options: dict[str, object]) -> None:
    layers = {"w.weight": LAYERS[name], "ok.weight": np.random.default_rng(1).standard_normal((60, 50))}
    base = {"base": {n: np.asarray(a) * 0.5 if a.dtype.kind == "f" else a for n, a in layers.items()}}
    try:
        report = layerscope.analyze(layers, **({**options, **base} if "base" in options else options))
    except layerscope.LayerscopeError as error:
        message = str(error)
    else:
        message = ""
    assert "\n" not in message
    if message:
        return
    for row in report.rows:
        assert row.skipped or row.metrics or row.absent
        values = [v for v in row.metrics.values() if isinstance(v, float)]
        assert all(math.isfinite(v) for v in values)
    assert json.loads(report.to_json())
    assert repr(report)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_scale_changes_no_verdict(scale: float) -> None:
    rng = np.random.default_rng(1)
    layers = {f"w{i}": scale * (rng.standard_normal((90, 70)) * rng.uniform(0.5, 1.5, (90, 1))) for i in range(4)}
    found = {f.code for f in layerscope.analyze(layers).findings}
    assert found == ({"LS105"} if scale < 1e-6 else set())  # weights of no size are a fault


HOSTILE_FILES = {
    "empty.safetensors": b"",
    "empty.pt": b"",
    "empty.npz": b"",
    "empty.bin": b"",
    "text.safetensors": b"hello, I am a text file\n",
    "text.pt": b"hello, I am a text file\n",
    "text.txt": b"hello\n",
    "zip.pt": b"PK\x03\x04 and nothing more",
    "pickle.bin": b"\x80\x04 torn",
    "pickle.weights": b"\x80\x02}q\x00.",
    "noise.ckpt": bytes(range(256)) * 4,
    "ten_gigabytes.safetensors": (10 * 2**30).to_bytes(8, "little") + b"{}" + bytes(100),
    "report.layerscope": b"PK\x05\x06" + bytes(18),
}


@pytest.mark.parametrize("name", HOSTILE_FILES)
@pytest.mark.parametrize("command", ["analyze", "describe"])
def test_hostile_files_get_one_line_and_exit_code_three(tmp_path: Path, name: str, command: str) -> None:
    (tmp_path / name).write_bytes(HOSTILE_FILES[name])
    done = cli(command, tmp_path / name)
    assert done.returncode == 3, (done.stdout, done.stderr)
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("layerscope: ")
    assert done.stdout == ""


def test_hostile_places(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("x")
    os.mkfifo(tmp_path / "pipe.safetensors")
    os.symlink(tmp_path / "loop", tmp_path / "loop")
    for target, message in (
        (tmp_path / "empty", "an empty folder"),
        (tmp_path / "file.txt", "a text file"),
        (tmp_path / "pipe.safetensors", "neither a file nor a folder"),
        (tmp_path / "loop", "loop"),
        ("", "is not a valid path"),
        (tmp_path / ("x" * 300), "File name too long"),
    ):
        done = cli("analyze", target)
        assert done.returncode == 3, done.stderr
        assert message in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_file_that_may_not_be_read_says_so(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"x" * 20)
    path.chmod(0)
    assert cli("analyze", path).returncode == 3


def test_a_file_that_shrinks_while_it_is_read_is_an_error_not_a_crash(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    from layerscope.sources.opening import open_target

    path = tmp_path / "m.safetensors"
    save_file({"a.weight": np.ones((600, 600), np.float32), "b.weight": np.ones((600, 600), np.float32)}, path)
    source = open_target(path)
    os.truncate(path, 2000)
    with pytest.raises(Unreadable, match="shorter"):
        source.read(list(source.layers())[1])


def npy(shape: tuple[int, ...], data: bytes, descr: str = "<f4") -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(118) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


def npz(path: Path, members: list[tuple[str, bytes]]) -> Path:
    import warnings
    import zipfile

    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")
        for name, data in members:
            archive.writestr(name, data)
    return path


def test_npz_members_that_hide_each_other_are_told_apart(tmp_path: Path) -> None:
    ones, twos = (npy((60, 60), np.full(3600, x, np.float32).tobytes()) for x in (1, 2))
    with pytest.raises(Unreadable, match="two members of the zip"):
        layerscope.analyze(npz(tmp_path / "dup.npz", [("a.npy", ones), ("a.npy", twos)]))
    report = layerscope.analyze(npz(tmp_path / "shadow.npz", [("a.npy", ones), ("a", twos)]))
    assert report.layers["a"].metrics["lambda_max"] == pytest.approx(3600)


@pytest.mark.parametrize("shape", [(-2, -3), (2**40, 2**40), (1,) * 100])
def test_npz_with_impossible_shapes_is_unreadable(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(Unreadable):
        layerscope.describe(npz(tmp_path / "m.npz", [("a.npy", npy(shape, bytes(24)))]))


def test_big_endian_arrays_are_read(tmp_path: Path) -> None:
    w = np.random.default_rng(0).standard_normal((64, 60))
    np.savez(tmp_path / "m.npz", w=w.astype(">f4"))
    expected = layerscope.analyze({"w": w.astype(np.float32)}).layers["w"].metrics["alpha"]
    assert layerscope.analyze(tmp_path / "m.npz").layers["w"].metrics["alpha"] == pytest.approx(expected)


def test_a_tensor_called_like_a_part_of_another_keeps_its_own_verdict() -> None:
    rng = np.random.default_rng(0)
    report = layerscope.analyze(
        {"a.in_proj_weight": rng.standard_normal((300, 100)), "a.in_proj_weight[q]": np.ones((100, 100))}
    )
    assert len({row.name for row in report.rows}) == len(report.rows) == 4
    assert {f.layer for f in report.findings if f.code == "LS105"} == {"a.in_proj_weight[q]#2"}


@pytest.mark.parametrize("name", ["_pos_embed" * 30000 + "!", "norm" * 30000 + "!.x"])
def test_endless_names_are_laid_out_at_once(name: str) -> None:
    start = os.times().user
    layerscope.describe({name: np.ones((3, 3)), f"{name}.bias": np.ones(3)})
    assert os.times().user - start < 5


def test_a_lone_surrogate_in_a_name_loses_no_result(tmp_path: Path) -> None:
    header = json.dumps({"a\ud800.weight": {"dtype": "F32", "shape": [60, 60], "data_offsets": [0, 14400]}}).encode()
    path = tmp_path / "m.safetensors"
    data = np.random.default_rng(0).standard_normal((60, 60)).astype(np.float32).tobytes()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    for extra in (("--save", tmp_path / "r.layerscope"), ("-f", "json", "-o", tmp_path / "o"), ("-f", "csv")):
        done = cli("analyze", path, *extra)
        assert done.returncode == 0, done.stderr


def test_a_full_stdout_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "layerscope", "demo"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "cannot write to stdout" in done.stderr


def test_links_that_leave_the_folder_are_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    (tmp_path / "m").mkdir()
    save_file({"w.weight": np.ones((60, 60), np.float32)}, tmp_path / "secret.safetensors")
    (tmp_path / "m" / "model.safetensors").symlink_to(tmp_path / "secret.safetensors")
    done = cli("analyze", tmp_path / "m")
    assert done.returncode == 3
    assert "outside its folder" in done.stderr


def test_an_index_that_puts_tensors_elsewhere_is_unreadable(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"w.weight": np.ones((60, 60), np.float32)}, tmp_path / "a.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"ghost": "a.safetensors"}}))
    done = cli("analyze", tmp_path)
    assert done.returncode == 3
    assert "no file contains it" in done.stderr
