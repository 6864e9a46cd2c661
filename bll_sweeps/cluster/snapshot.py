"""The code that SLURM jobs run from: a copy taken at launch, named by its content, so that editing the checkout
changes no queued job. Sweeps launched from the same code share it.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from bll_sweeps.errors import StoreError
from bll_sweeps.store.layout import Layout
from bll_sweeps.store.records import keep_to_owners

_PACKAGES = ("bll_sweeps", "jobs")  # what a worker imports of ours


def take(layout: Layout) -> Path:
    """The folder to put on $PYTHONPATH; copied if the run root does not hold this code yet. StoreError if somebody else
    has put a folder in its place.
    """
    top = Path(__file__).parents[2]
    sources = {path: path.read_bytes() for path in _sources(top)}
    digest = hashlib.sha256()
    for path, content in sources.items():
        digest.update(f"{path.relative_to(top).as_posix()}\0{len(content)}\0".encode() + content)
    # Each user's own, writable for nobody else: what is in it is run under that user's account.
    folder = layout.code(f"{digest.hexdigest()[:16]}-{os.getuid()}")
    if _is_mine(folder):
        return folder
    layout.snapshots.mkdir(parents=True, exist_ok=True)
    keep_to_owners(layout.snapshots)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    for path, content in sources.items():
        copy = temporary / path.relative_to(top)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(content)
    for path in (temporary, *temporary.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    try:
        temporary.rename(folder)
    except OSError:  # another launch was faster with the same code
        shutil.rmtree(temporary)
        if not _is_mine(folder):
            raise StoreError(f"{folder} is in the way and another user's: no code is run from it; remove it") from None
    return folder


def _is_mine(folder: Path) -> bool:
    try:
        found = folder.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()


def _sources(top: Path) -> Iterator[Path]:
    for package in _PACKAGES:
        for path in sorted((top / package).rglob("*")):
            if path.is_file() and path.suffix in (".py", ".yaml"):
                yield path
