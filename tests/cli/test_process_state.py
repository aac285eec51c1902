"""Closed, full and broken streams, small memory limits, files that shrink, and a second Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from layerscope.cli import process_state
from layerscope.errors import LayerscopeWarning

COMMAND = f"{sys.executable} -m layerscope"


@pytest.fixture(scope="module")
def net(tmp_path_factory: Any) -> Path:
    from safetensors.numpy import save_file

    path = tmp_path_factory.mktemp("net") / "net.safetensors"
    values = np.random.default_rng(0).standard_normal((60, 60))
    values[:30] = 0  # dead rows: an error
    save_file({"fc1.weight": values, "fc2.weight": values}, path)
    return Path(path)


def shell(script: str) -> tuple[int, str, str]:
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("redirection", "code", "says"),
    [
        (">&-", 2, "cannot write to stdout"),
        ("2>&- >/dev/null", 0, ""),
        (">&- 2>&-", 2, ""),
        ("2>/dev/full >/dev/null", 0, ""),
        ("2>/dev/full >/dev/full", 2, ""),
        ("<&- >/dev/null", 0, ""),
    ],
)
def test_closed_and_full_streams(net: Path, redirection: str, code: int, says: str) -> None:
    got, _, err = shell(f"{COMMAND} describe {net} {redirection}")
    assert got == code
    assert says in err
    assert err.count("\n") == bool(says)


def test_an_error_without_stderr_keeps_its_exit_code(net: Path) -> None:
    assert shell(f"{COMMAND} describe {net}.missing 2>/dev/full")[0] == 3
    assert shell(f"{COMMAND} describe {net}.missing 2>&-")[0] == 3


@pytest.mark.parametrize(("options", "code"), [("", 0), ("--fail-on error", 1)])
def test_a_reader_that_ends_early_changes_no_exit_code(net: Path, options: str, code: int) -> None:
    got, _, err = shell(f"{COMMAND} analyze {net} {options} | true; exit ${{PIPESTATUS[0]}}")
    assert (got, err) == (code, "")


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS")
@pytest.mark.parametrize("mebibytes", [40, 100, 300])
def test_a_small_memory_limit_is_one_line(net: Path, mebibytes: int) -> None:
    got, _, err = shell(f"ulimit -v {mebibytes * 1024}; {COMMAND} analyze {net}")
    assert got == 3
    assert err.count("\n") == 1
    assert "MiB" in err


@pytest.mark.skipif(not hasattr(signal, "SIGBUS"), reason="no SIGBUS on this system")
def test_a_mapped_file_that_shrinks_is_one_line(tmp_path: Path) -> None:
    script = (
        "import os, sys, numpy\nfrom layerscope.cli import process_state\nprocess_state.end_on_shrunk_file()\n"
        "a = numpy.memmap(sys.argv[1], mode='w+', shape=(1 << 22,))\nos.truncate(sys.argv[1], 10)\na.sum()"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "weights")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == process_state.SHRUNK_FILE.decode()


@contextlib.contextmanager
def _ended(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """End the process whatever happens: waiting for one that does not end would hang all tests."""
    with process:
        try:
            yield process
        finally:
            process.kill()


def test_a_second_interrupt_ends_user_code_that_catches_the_first(tmp_path: Path) -> None:
    (tmp_path / "stubborn.py").write_text(
        "import time\nopen('started', 'w').close()\nwhile True:\n"
        "    try:\n        time.sleep(100)\n    except BaseException:\n        open('caught', 'w').close()\n"
    )
    command = [sys.executable, "-m", "layerscope", "conditioning", "stubborn:model", "--data", "stubborn:data"]
    started = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    with _ended(started) as process:
        for mark in ("started", "caught"):
            deadline = time.monotonic() + 60
            while not (tmp_path / mark).exists():
                assert time.monotonic() < deadline
                assert process.poll() is None
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60)[1].strip() == "layerscope: interrupted"
        assert process.returncode == 130


def test_only_own_warnings_are_shown(capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    process_state.show_own_warnings_only()
    warnings.showwarning("use allow_pickle=True", UserWarning, "x.py", 1)
    warnings.showwarning(LayerscopeWarning("two\nlines"), LayerscopeWarning, "x.py", 1)
    err = capsys.readouterr().err
    assert err.startswith("layerscope: two")
    assert err.count("\n") == 1


def test_the_null_device_takes_what_a_broken_pipe_does_not(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    output = process_state._PipeOutput(writer, "w", closefd=True)
    assert output.write(b"abc") == 3
    assert output.write(b"abc") == 3
    output.close()
