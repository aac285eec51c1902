from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from layerscope import registry
from tests.command_line import cli, cli_process

EXECUTABLE = [sys.executable, "-m", "layerscope"]


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return cli(*arguments, **{"COLUMNS": "80", **environment})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("m") / "model.npz"
    arrays = {
        "fc1.weight": rng.standard_normal((128, 64)), "fc1.bias": np.ones(128),
        "zero.weight": np.zeros((64, 64)), "head.weight": rng.standard_normal((10, 64)),
    }  # fmt: skip
    np.savez(path, **{k: v.astype(np.float32) for k, v in arrays.items()})
    return path


def test_analyze_prints_the_table_on_stdout_and_nothing_on_stderr(model: Path) -> None:
    done = run("analyze", model)
    assert done.returncode == 0
    assert done.stderr == ""
    assert "fc1.weight" in done.stdout
    assert "LS105" in done.stdout
    assert "\x1b" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize("command", ["analyze", "describe"])
@pytest.mark.parametrize("format_", ["table", "json", "jsonl", "csv", "md"])
def test_every_format_of_every_command(model: Path, command: str, format_: str, tmp_path: Path) -> None:
    done = run(command, model, "-f", format_)
    assert done.returncode == 0, done.stderr
    if format_ == "json":
        assert len(json.loads(done.stdout)["layers"]) == 4
    if format_ == "jsonl":
        records = [json.loads(line)["record"] for line in done.stdout.splitlines()]
        assert records[0] == "meta"
        assert records[-1] == "summary"
        assert records.count("layer") == 4
    if format_ == "csv":
        rows = list(csv.DictReader(io.StringIO(done.stdout)))
        assert [row["name"] for row in rows] == ["fc1.weight", "fc1.bias", "zero.weight", "head.weight"]
    if format_ == "md":
        assert "| fc1.weight |" in done.stdout or "fc1.weight" in done.stdout
    file = tmp_path / "out"
    again = run(command, model, "-f", format_, "-o", file)
    assert again.stdout == ""
    strip = [
        line
        for line in file.read_text().splitlines()
        if "second" not in line and " s)" not in line and "started" not in line
    ]
    assert strip == [x for x in done.stdout.splitlines() if "second" not in x and " s)" not in x and "started" not in x]


def test_saved_reports_are_targets_and_keep_their_settings(model: Path, tmp_path: Path) -> None:
    saved = tmp_path / "r.layerscope"
    assert run("analyze", model, "--save", saved, "--min-evals", 5).returncode == 0
    first, again = (json.loads(run("analyze", target, "-f", "json", *extra).stdout)
                    for target, extra in ((model, ("--min-evals", 5)), (saved, ())))  # fmt: skip
    assert first["layers"][0]["metrics"] == again["layers"][0]["metrics"]
    assert again["meta"]["settings"]["min_evals"] == 5
    assert "head.weight" in run("describe", saved).stdout
    rejudged = json.loads(run("analyze", saved, "-f", "json", "--min-evals", 70).stdout)
    assert "alpha" not in rejudged["layers"][0]["metrics"]


@pytest.mark.parametrize(("severity", "code"), [("error", 1), ("warn", 1)])
def test_fail_on_findings(model: Path, severity: str, code: int) -> None:
    assert run("analyze", model, "--fail-on", severity).returncode == code
    assert run("analyze", model, "--fail-on", severity, "--layers", "head*").returncode == 0


def test_layers_that_fail_exit_with_four(tmp_path: Path) -> None:
    np.savez(tmp_path / "m.npz", **{"bad.weight": np.full((60, 60), np.nan), "good.weight": np.eye(60)})
    done = run("analyze", tmp_path / "m.npz")
    assert done.returncode == 4
    assert "3600 NaN and 0 infinite entries of 3600" in done.stdout
    assert "good" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("analyze", "modle.npz"), 3, "does not exist; did you mean 'model.npz'?"),
        (("analyze", "model.npz", "--engine", "prosesses"), 2, "did you mean 'processes'"),
        (("analyze", "model.npz", "--layers", "fc9"), 2, "match no layer; did you mean 'fc1'"),
        (("analyze", "model.npz", "--columns", "alfa"), 2, "did you mean 'alpha'"),
        (("analyze", "model.npz", "--min-evals", "1"), 2, "--min-evals 1: give a whole number of at least 2"),
        (("analyze", "model.npz", "--min-evals", "x"), 2, "not a valid integer"),
        (("analyze",), 2, "Missing argument"),
        (("analyze", "model.npz", "--frobnicate"), 2, "No such option"),
        (("analyze", "model.npz", "-o", "no/such/folder/x"), 2, "does not exist"),
        (("analyze", "model.npz", "-o", "."), 2, "it is a folder"),
        (("analyze", "model.npz", "model.npz", "--save", "x"), 2, "--save takes the report of one TARGET"),
        (("explain", "LS999"), 2, "no verdict, column or term called 'LS999'; close matches: LS"),
        (("analyse",), 2, "no command called 'analyse'; did you mean 'analyze'?"),
        ((".",), 2, "did you mean: layerscope analyze ."),
        (("s3://bucket/a b",), 2, "layerscope analyze 's3://bucket/a b'"),
    ],
)
def test_wrong_input_gets_one_line_and_its_exit_code(
    model: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    done = cli(*arguments, cwd=model.parent)
    assert done.returncode == code
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_the_bare_command_prints_its_help() -> None:
    assert run().stdout == run("--help").stdout


def test_several_targets_stand_side_by_side(model: Path) -> None:
    done = run("analyze", model, model)
    assert done.stdout.startswith("2 models side by side")
    assert done.stdout.count("fc1.weight") <= 2  # only in the sentence about each model
    detailed = run("analyze", model, model, "-v").stdout
    assert detailed.count("fc1.weight") >= 2
    assert detailed.startswith("2 models side by side")
    assert json.loads(run("analyze", model, model, "-f", "json").stdout)[1]["schema"] == 1


def test_what_is_done_is_not_lost_when_a_later_target_fails(model: Path) -> None:
    done = run("analyze", model, "nothing-there.npz")
    assert done.returncode == 3
    assert "fc1.weight" in done.stdout


def test_dry_run_plans_and_measures_nothing(model: Path) -> None:
    done = run("analyze", model, "--dry-run")
    assert done.returncode == 0
    assert "Gflop" in done.stdout
    assert "MiB" in done.stdout
    assert "LS105" not in done.stdout


def test_explain_prints_evidence_caveats_and_reference() -> None:
    text = run("explain", "ls101").stdout
    for word in ("very heavy tail", "over-trained", "Evidence", "Caveats", "Reference", "Martin"):
        assert word in text
    assert "Power-law exponent" in run("explain", "alpha").stdout


def test_plugins_lists_every_plugin_with_its_file() -> None:
    text = run("plugins").stdout
    for kind in registry.KINDS:
        for name in registry.plugins(kind):
            assert name in text
    assert "rules/ls101_very_heavy_tail.py" in text.replace("\n", "")


def test_demo_shows_both_networks_and_says_what_it_sees() -> None:
    done = run("demo")
    assert done.returncode == 0
    assert done.stderr == ""
    for fault in ("LS103 looks untrained in fc2", "LS115 isolated outlier weight in fc3", "LS114 dead units in fc1"):
        assert fault in " ".join(done.stdout.split())
    assert "Warnings in the first file: 0; in the second: 1." in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_demo_networks_are_small_and_what_the_script_trains(tmp_path: Path) -> None:
    from layerscope.demo import NETWORKS
    from layerscope.sources.opening import open_target

    script = Path(__file__).resolve().parents[2] / "scripts" / "train_demo.py"
    subprocess.run([sys.executable, script, tmp_path], check=True, capture_output=True)
    assert sum(Path(path).stat().st_size for path in NETWORKS) < 1e6
    for path in NETWORKS:
        shipped, trained = open_target(path), open_target(tmp_path / Path(path).name)
        for ref in shipped.layers():
            np.testing.assert_allclose(trained.read(ref), shipped.read(ref), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_colours_on_a_terminal_unless_told_not_to(model: Path, environment: dict[str, str], coloured: bool) -> None:
    import pty

    primary, secondary = pty.openpty()
    env = {**{k: v for k, v in os.environ.items() if k != "NO_COLOR"}, "TERM": "xterm-256color", **environment}
    child = subprocess.Popen([*EXECUTABLE, "analyze", str(model)], stdout=secondary, stderr=secondary, env=env)
    os.close(secondary)
    seen = b""
    while True:
        try:
            chunk = os.read(primary, 65536)
        except OSError:
            break
        if not chunk:
            break
        seen += chunk
    assert child.wait() == 0
    assert (b"\x1b[1;31m" in seen) == coloured
    assert b"LS105" in seen


def test_a_closed_pipe_is_no_error(model: Path) -> None:
    command = f"{' '.join(EXECUTABLE)} analyze {model} -f csv | head -1"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_a_terminal_without_unicode_is_no_error(model: Path) -> None:
    done = cli_process("analyze", model, PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert "LS105" in done.stdout


def test_columns_are_chosen_and_listed(model: Path) -> None:
    done = run("analyze", model, "--columns", "name,alpha,entropy", "-f", "csv")
    assert done.stdout.splitlines()[0] == "name,alpha,entropy"
    assert "stable_rank" in run("analyze", model, "--columns", "help").stdout.split()


def test_a_full_disk_leaves_no_half_file_and_loses_no_result(model: Path, tmp_path: Path) -> None:
    limit = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000));"
        "from layerscope.cli.main import main; main()"
    )
    for option, name in (("--save", "r.layerscope"), ("-o", "out.txt")):
        (tmp_path / name).write_text("what was here before")
        command = [sys.executable, "-c", limit, "analyze", str(model), option, str(tmp_path / name), "-f", "json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert done.stderr.startswith(f"layerscope: cannot write {tmp_path / name}: ")
        assert done.stderr.count("\n") == 1
        assert (tmp_path / name).read_text() == "what was here before"
        assert os.listdir(tmp_path) == [name]
        assert len(json.loads(done.stdout)["layers"]) == 4
        (tmp_path / name).unlink()


def test_debug_shows_the_traceback() -> None:
    assert "Traceback" in run("--debug", "analyze", "nothing.npz").stderr
    assert "Traceback" not in run("analyze", "nothing.npz").stderr
