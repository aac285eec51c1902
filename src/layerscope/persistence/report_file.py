"""A report as a file: one zip with the JSON of the report and each spectrum as .npy, all uncompressed.

A history is a zip of such zips, a member for each step. Uncompressed, so that no member can be larger than the file
itself; nothing in it is ever unpickled.
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
from layerscope.persistence.atomic_files import write_whole
from layerscope.persistence.report_json import SCHEMA, from_dict, parse, to_dict
from layerscope.records.history import History
from layerscope.records.report import Report
from layerscope.validation import conforms

if TYPE_CHECKING:
    from layerscope.array_types import Floats

MEMBER, RUN = "layerscope.json", "history.json"
FACTS = ("n", "m", "k", "floor", "complete")


def is_report(path: str | Path) -> bool:
    """Is it a saved report? Told by content."""
    return _holds(path, MEMBER)


def is_history(path: str | Path) -> bool:
    """Is it a saved history? Told by content."""
    from layerscope.persistence import run_journal

    return _holds(path, RUN) or run_journal.is_journal(path)


def _holds(path: str | Path, member: str) -> bool:
    from layerscope.sources.storage.zip_archive import zip_names

    try:
        file = Path(path)
        return file.is_file() and member in zip_names(file)
    except (OSError, ValueError):
        return False


def save(report: Report, path: str | Path) -> None:
    """Write the whole report; the file appears complete or not at all."""
    write_whole(path, packed(report))


def save_history(history: History, path: str | Path) -> None:
    """Write the whole history; the file appears complete or not at all."""
    buffer = io.BytesIO()
    plain = {"name": history.name, "steps": list(history.steps), "scalars": [dict(each) for each in history.scalars]}
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(_dated(RUN), json.dumps({"schema": SCHEMA, **plain}, allow_nan=False))
        for number, report in enumerate(history.reports):
            archive.writestr(_dated(f"reports/{number}.layerscope"), packed(report))
    write_whole(path, buffer.getvalue())


def packed(report: Report) -> bytes:
    """The whole report as the bytes of a zip."""
    buffer = io.BytesIO()
    spectra: dict[str, dict[str, Any]] = {}
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for number, layer in enumerate(report.rows):
            for role, part in layer.parts.items():
                if part.spectrum is not None:
                    member = f"spectra/{number}.{role}.npy"
                    facts = {name: getattr(part.spectrum, name) for name in FACTS}
                    spectra[member] = {"index": number, "role": role, **facts}
                    archive.writestr(_dated(member), _npy(part.spectrum.evals))
        content = {**to_dict(report), "spectra": spectra}
        archive.writestr(_dated(MEMBER), json.dumps(content, allow_nan=False))
    return buffer.getvalue()


def load(path: str | Path) -> Report:
    """Read a saved report.

    :raises Unreadable: not a report, truncated, compressed, or with spectra that are not what it says.
    """
    with _opened(path, "report") as archive:
        return unpacked(archive)


def load_any(path: str | Path) -> Report | History:
    """Read a saved report, or a saved history of them."""
    return load_history(path) if is_history(path) else load(path)


def load_history(path: str | Path) -> History:
    """Read a saved history.

    :raises Unreadable: not a history, or damaged.
    """
    from layerscope.persistence import run_journal

    if run_journal.is_journal(path):
        found = list(run_journal.records(path))
        if not found:
            raise Unreadable(f"{path} is a history without a check")
        every = tuple(r.step for r in found), tuple(r.report for r in found), tuple(r.scalars for r in found)
        return History(run_journal.name_of(path), *every)
    with _opened(path, "history") as archive:
        plain = parse(_member(archive, RUN))
        steps, scalars = tuple(plain["steps"]), tuple(plain["scalars"])
        right = conforms(steps, tuple[int, ...]) and conforms(scalars, tuple[Mapping[str, float], ...])
        if plain.get("schema") != SCHEMA or not right or not conforms(plain["name"], str):
            raise Unreadable(f"a history of schema {plain.get('schema')!r:.40} with steps {steps!r:.80}")
        if not steps or len(scalars) != len(steps) or any(b <= a for a, b in pairwise(steps)):
            raise Unreadable(f"a history whose {len(steps)} steps do not ascend, or lack their numbers")
        reports = []
        for number in range(len(steps)):
            with zipfile.ZipFile(io.BytesIO(_member(archive, f"reports/{number}.layerscope"))) as inner:
                reports.append(unpacked(inner))
        return History(plain["name"], steps, tuple(reports), scalars)


@contextmanager
def _opened(path: str | Path, what: str) -> Iterator[zipfile.ZipFile]:
    """The zip; whatever is wrong with it is told as one error."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except Unreadable as error:
        raise Unreadable(f"{path}: {error}") from None
    except Exception as error:  # whatever a damaged file makes the zip and npy readers stumble over
        raise Unreadable(f"{path}: not a saved {what}, or damaged: {type(error).__name__}: {error}") from error


def unpacked(archive: zipfile.ZipFile) -> Report:
    """The inverse of :func:`packed`."""
    plain = parse(_member(archive, MEMBER))
    spectra = {
        (int(facts["index"]), str(facts["role"])): _spectrum(archive, member, facts)
        for member, facts in plain.get("spectra", {}).items()
    }
    return from_dict(plain, spectra)


def _spectrum(archive: zipfile.ZipFile, member: str, facts: dict[str, Any]) -> Spectrum:
    raw = io.BytesIO(_member(archive, member))
    if np.lib.format.read_magic(raw) != (1, 0):
        raise Unreadable(f"{member} is no npy file of version 1.0")
    shape, _, dtype = np.lib.format.read_array_header_1_0(raw)
    if dtype != np.float64 or shape != ((len(raw.getvalue()) - raw.tell()) // 8,):
        raise Unreadable(f"{member} claims {str(shape)[:40]} of {dtype}, which is not what it holds")
    evals = np.frombuffer(raw.read(), np.float64)
    spectrum = Spectrum(evals, **{name: facts[name] for name in FACTS})
    counts = (spectrum.k, spectrum.m, spectrum.n)
    whole = all(conforms(x, int) and x > 0 for x in counts) and 0 < len(evals) <= spectrum.k * spectrum.m
    whole = whole and (len(evals) == spectrum.k * spectrum.m or spectrum.complete is False)
    floor = conforms(spectrum.floor, float) and spectrum.floor >= 0 and isinstance(spectrum.complete, bool)
    if not whole or not floor or spectrum.n < spectrum.m:
        raise Unreadable(f"{member}: impossible sizes")
    if not np.isfinite(evals).all() or (np.diff(evals) < 0).any() or evals[0] < 0:
        raise Unreadable(f"{member} is no ascending spectrum")
    return spectrum


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED:
        raise Unreadable(f"{name} is compressed, which a saved report never is")
    return archive.read(info)


def _npy(evals: Floats) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, evals, allow_pickle=False)
    return buffer.getvalue()


def _dated(name: str) -> zipfile.ZipInfo:
    return zipfile.ZipInfo(name)  # a fixed date: equal reports are equal files
