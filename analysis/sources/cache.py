"""What a load of a sweep read, kept as Parquet, so that the next one need not read the records again.

A snapshot is a folder `<root>/cache/analysis/<sweep>/<key>/` of Parquet files and meta.json. Its key is a digest of
everything its tables follow from: the manifests and, of every job that they name, the stamp of the files that a result
can follow from (stamps.py); the root's path, which problems name; the code of the sources and the versions of the
libraries. So a snapshot is never out of date, it is only not found. Where it is not found, the latest one still serves
for the jobs whose stamps are the same: only the others are read.

A snapshot is written aside and renamed, so that several processes at once leave a whole one; files whose digests differ
from meta.json's, or that are gone, make it as if it were not there. Where nothing can be written, nothing is kept.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import shutil
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.workers import cores
from bll_sweeps.store.layout import Layout

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger("bll")

SNAPSHOTS = 3  # kept of a sweep: of its last launch, of all of them ..
_META = "meta.json"
# What the tables are made by; a change of it is another key.
_CODE = ("analysis/sources", "analysis/statistics/intervals.py", "bll_sweeps/store", "bll_sweeps/grid/axes")


@lru_cache(maxsize=1)
def _made_by() -> str:
    """The code of the sources and the libraries that it uses, as a digest."""
    top = Path(__file__).resolve().parents[2]
    paths = [
        p for name in _CODE for p in (sorted((top / name).glob("*.py")) if (top / name).is_dir() else [top / name])
    ]
    versions = [f"{name} {version(name)}" for name in ("msgspec", "numpy", "pandas", "pyarrow")]
    code = hashlib.sha256(f"{sys.version} {versions}".encode())
    for path in paths:
        code.update(path.read_bytes())
    return code.hexdigest()


def snapshot_key(layout: Layout, manifests: Iterable[Path], stamps: Mapping[str, str], asked: Any) -> str:
    """asked: what else the tables follow from."""
    told = [_made_by(), str(layout.root), repr(asked), *(f"{path} {_digest(path)}" for path in manifests)]
    told += [f"{job} {stamp}" for job, stamp in sorted(stamps.items())]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:32]


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# --- snapshots --------------------------------------------------------------------------------------------------------


class Snapshot:
    """A snapshot on the disk. `table` and `meta` raise DamagedError unless it is as it was written."""

    def __init__(self, folder: Path):
        self.folder = folder
        text = _bytes(folder / _META)
        try:
            whole = json.loads(text)
            self.meta: dict[str, Any] = whole["meta"]
            self._digests: dict[str, str] = whole["digests"]
            good = whole["sha256"] == _meta_digest(self.meta, self._digests)
        except (ValueError, KeyError, TypeError):
            good = False
        if not good:
            raise DamagedError(f"{folder / _META} is damaged")

    def table(self, name: str) -> pd.DataFrame:
        import pyarrow as pa
        from pyarrow import parquet

        data = _bytes(self.folder / f"{name}.parquet")
        if hashlib.sha256(data).hexdigest() != self._digests.get(name):
            raise DamagedError(f"{self.folder / name}.parquet is damaged")
        return parquet.read_table(pa.BufferReader(data)).to_pandas()


class DamagedError(Exception):
    """A snapshot is not there, not whole, or not what was written."""


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DamagedError(f"{path} cannot be read ({error})") from None


def _meta_digest(meta: Any, digests: Any) -> str:
    return hashlib.sha256(json.dumps([meta, digests], sort_keys=True).encode()).hexdigest()


def find(layout: Layout, sweep: str, key: str) -> Snapshot | None:
    """The snapshot of that key; None if there is none that is whole."""
    return _open(layout.analysis_cache(sweep) / key)


def latest(layout: Layout, sweep: str) -> Snapshot | None:
    """The snapshot of the sweep that was written last."""
    folders = _snapshots(layout.analysis_cache(sweep))
    return _open(folders[0]) if folders else None


def _open(folder: Path) -> Snapshot | None:
    if not folder.is_dir():
        return None
    try:
        return Snapshot(folder)
    except DamagedError as error:
        log.info("the analysis reads records again: %s", error)
        return None


def _snapshots(folder: Path) -> list[Path]:
    """The latest first."""
    try:
        found = [(path.stat().st_mtime_ns, path) for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError:
        return []
    return [path for _, path in sorted(found, reverse=True)]


def keep(
    layout: Layout, sweep: str, key: str, meta: dict[str, Any], tables: Mapping[str, pd.DataFrame | pa.Table]
) -> None:
    """Writes a snapshot, and removes what is more than SNAPSHOTS of them; a log line where that cannot be done."""
    folder = layout.analysis_cache(sweep) / key
    aside = folder.with_name(f".{key}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        aside.mkdir(parents=True)
        with ThreadPoolExecutor(cores()) as threads:  # most of it is pyarrow's, which lets other threads run
            largest_first = sorted(tables.items(), key=lambda item: -len(item[1]))
            written = {name: threads.submit(_write, aside / f"{name}.parquet", t) for name, t in largest_first}
            digests = {name: future.result() for name, future in written.items()}
        whole = {"meta": meta, "digests": digests, "sha256": _meta_digest(meta, digests)}
        (aside / _META).write_text(json.dumps(whole, sort_keys=True), encoding="utf-8")
        _put(aside, folder)
        for old in _snapshots(folder.parent)[SNAPSHOTS:]:
            _remove(old)
    except (OSError, _UnfitError) as error:
        log.info("what the analysis read is not kept in %s: %s", folder.parent, error)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _put(aside: Path, folder: Path) -> None:
    if folder.exists():  # damaged, or another process was faster with the same
        _remove(folder)
    try:
        aside.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise


def _remove(folder: Path) -> None:
    """In one step, so that no reader finds a part of it."""
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        folder.rename(aside)
    except FileNotFoundError:
        return
    shutil.rmtree(aside, ignore_errors=True)


class _UnfitError(Exception):
    """A table that Parquet does not give back as it was."""


def _write(path: Path, table: pd.DataFrame | pa.Table) -> str:
    """The digest of the file, which gives back exactly this table."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        whole = table if isinstance(table, pa.Table) else _as_arrow(table, path.stem)
        sink = pa.BufferOutputStream()
        # Without dictionaries: of millions of scores written in two thirds of the time, read in a quarter.
        parquet.write_table(whole, sink, compression="zstd", use_dictionary=False)
    except pa.ArrowException as error:
        raise _UnfitError(f"{path.stem} is no table of plain columns ({error})") from None
    data = sink.getvalue().to_pybytes()
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def _as_arrow(table: pd.DataFrame, name: str) -> pa.Table:
    import pyarrow as pa

    whole = pa.Table.from_pandas(table, preserve_index=False)
    back = whole.to_pandas()
    if not (back.dtypes.equals(table.dtypes) and back.equals(table) and list(back) == list(table)):
        raise _UnfitError(f"{name} is not the same when it is read back")
    return whole
