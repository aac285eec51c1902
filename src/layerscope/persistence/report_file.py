"""Save and load reports as zip files that contain the report as JSON and each spectrum as .npy.

A history is a zip with one such zip per step. Members are uncompressed, so that none can be larger than the file.
Loading never unpickles anything.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import Unreadable
from layerscope.numerics.spectrum import Spectrum
from layerscope.persistence.atomic_files import write_atomically
from layerscope.persistence.regular_files import open_regular
from layerscope.persistence.report_json import SCHEMA, from_dict, parse, to_dict
from layerscope.records.history import History
from layerscope.records.report import Report
from layerscope.validation import matches_type

if TYPE_CHECKING:
    from layerscope.array_types import Floats

REPORT_MEMBER, HISTORY_MEMBER = "layerscope.json", "history.json"
SPECTRUM_FIELDS = ("n", "m", "k", "floor", "complete")


def is_report(path: str | Path) -> bool:
    """Whether the file is a saved report, judged by its content."""
    return _has_member(path, REPORT_MEMBER)


def is_history(path: str | Path) -> bool:
    """Whether the file is a saved history, judged by its content."""
    from layerscope.persistence import run_journal

    return _has_member(path, HISTORY_MEMBER) or run_journal.is_journal(path)


def _has_member(path: str | Path, member: str) -> bool:
    from layerscope.sources.storage.zip_archive import zip_names

    try:
        file = Path(path)
        return file.is_file() and member in zip_names(file)
    except (OSError, ValueError):
        return False


def save(report: Report, path: str | Path) -> None:
    """Write a report with its spectra to a file, atomically."""
    write_atomically(path, pack_report(report))


def save_history(history: History, path: str | Path) -> None:
    """Write a history with all its reports to a file, atomically."""
    buffer = io.BytesIO()
    plain = {
        "name": history.name,
        "steps": list(history.steps),
        "scalars": [dict(numbers) for numbers in history.scalars],
    }
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(_member_info(HISTORY_MEMBER), json.dumps({"schema": SCHEMA, **plain}, allow_nan=False))
        for number, report in enumerate(history.reports):
            archive.writestr(_member_info(f"reports/{number}.layerscope"), pack_report(report))
    write_atomically(path, buffer.getvalue())


def pack_report(report: Report) -> bytes:
    """Return a report with its spectra as the bytes of a zip file."""
    buffer = io.BytesIO()
    spectra: dict[str, dict[str, Any]] = {}
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for number, layer in enumerate(report.rows):
            for role, part in layer.parts.items():
                if part.spectrum is not None:
                    member = f"spectra/{number}.{role}.npy"
                    facts = {name: getattr(part.spectrum, name) for name in SPECTRUM_FIELDS}
                    spectra[member] = {"index": number, "role": role, **facts}
                    archive.writestr(_member_info(member), _npy_bytes(part.spectrum.evals))
        content = {**to_dict(report), "spectra": spectra}
        archive.writestr(_member_info(REPORT_MEMBER), json.dumps(content, allow_nan=False))
    return buffer.getvalue()


def load(path: str | Path) -> Report:
    """Read a saved report.

    :raises Unreadable: the file is not a report, or is truncated, compressed or inconsistent.
    """
    with _open_archive(path, "report") as archive:
        return unpack_report(archive)


def load_any(path: str | Path) -> Report | History:
    """Read a saved report or a saved history."""
    return load_history(path) if is_history(path) else load(path)


def load_history(path: str | Path) -> History:
    """Read a saved history.

    :raises Unreadable: the file is not a history, or is damaged.
    """
    from layerscope.persistence import run_journal

    if run_journal.is_journal(path):
        records = list(run_journal.read_records(path))
        if not records:
            raise Unreadable(f"{path}: the history has no complete step yet")
        return History(
            run_journal.read_run_name(path),
            steps=tuple(record.step for record in records),
            reports=tuple(record.report for record in records),
            scalars=tuple(record.scalars for record in records),
        )
    with _open_archive(path, "history") as archive:
        plain = parse(_read_member(archive, HISTORY_MEMBER))
        steps, scalars = tuple(plain["steps"]), tuple(plain["scalars"])
        has_types = matches_type(steps, tuple[int, ...]) and matches_type(scalars, tuple[Mapping[str, float], ...])
        if plain.get("schema") != SCHEMA or not has_types or not matches_type(plain["name"], str):
            raise Unreadable(
                f"not a history of schema {SCHEMA}: schema {plain.get('schema')!r:.40}, steps {steps!r:.80}"
            )
        if not steps or len(scalars) != len(steps) or any(b <= a for a, b in pairwise(steps)):
            raise Unreadable(f"the {len(steps)} steps of the history do not increase, or lack their numbers")
        reports = []
        for number in range(len(steps)):
            with zipfile.ZipFile(io.BytesIO(_read_member(archive, f"reports/{number}.layerscope"))) as inner:
                reports.append(unpack_report(inner))
        return History(plain["name"], steps, tuple(reports), scalars)


@contextmanager
def _open_archive(path: str | Path, what: str) -> Iterator[zipfile.ZipFile]:
    """Open a zip file and turn all errors while reading it into Unreadable."""
    file = open_regular(path)
    try:
        with file, zipfile.ZipFile(file) as archive:
            yield archive
    except Unreadable as error:
        raise Unreadable(f"{path}: {error}") from None
    except Exception as error:  # the zip and npy readers raise various errors on a damaged file
        raise Unreadable(f"{path}: not a saved {what}, or damaged ({type(error).__name__}: {error})") from error


def unpack_report(archive: zipfile.ZipFile) -> Report:
    """Read a report from an open zip file: the inverse of :func:`pack_report`."""
    plain = parse(_read_member(archive, REPORT_MEMBER))
    spectra = {
        (int(facts["index"]), str(facts["role"])): _read_spectrum(archive, member, facts)
        for member, facts in plain.get("spectra", {}).items()
    }
    return from_dict(plain, spectra)


def _read_spectrum(archive: zipfile.ZipFile, member: str, facts: dict[str, Any]) -> Spectrum:
    raw = io.BytesIO(_read_member(archive, member))
    if np.lib.format.read_magic(raw) != (1, 0):
        raise Unreadable(f"{member} is not an npy file of version 1.0")
    shape, _, dtype = np.lib.format.read_array_header_1_0(raw)
    if dtype != np.float64 or shape != ((len(raw.getvalue()) - raw.tell()) // 8,):
        raise Unreadable(f"{member} declares shape {str(shape)[:40]} of {dtype}, but its data does not match")
    evals = np.frombuffer(raw.read(), np.float64)
    spectrum = Spectrum(evals, **{name: facts[name] for name in SPECTRUM_FIELDS})
    counts = (spectrum.k, spectrum.m, spectrum.n)
    has_sizes = all(matches_type(x, int) and x > 0 for x in counts) and 0 < len(evals) <= spectrum.k * spectrum.m
    has_sizes = has_sizes and (len(evals) == spectrum.k * spectrum.m or spectrum.complete is False)
    has_floor = matches_type(spectrum.floor, float) and spectrum.floor >= 0 and isinstance(spectrum.complete, bool)
    if not has_sizes or not has_floor or spectrum.n < spectrum.m:
        raise Unreadable(f"{member}: impossible sizes")
    if not np.isfinite(evals).all() or (np.diff(evals) < 0).any() or evals[0] < 0:
        raise Unreadable(f"{member}: eigenvalues are not finite, not negative and ascending")
    return spectrum


def _read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED:
        raise Unreadable(f"{name} is compressed; members of a saved report are never compressed")
    return archive.read(info)


def _npy_bytes(evals: Floats) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, evals, allow_pickle=False)
    return buffer.getvalue()


def _member_info(name: str) -> zipfile.ZipInfo:
    return zipfile.ZipInfo(name)  # has a fixed date, so that equal reports give equal files
