"""Files and folders of a run root as they lie: their size, age and owner. Links are not followed."""

from __future__ import annotations

import os
import time
from pathlib import Path


def is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def entries(folder: Path) -> list[Path]:
    """What a folder holds; nothing for a link, which may lead out of the run root, or for none."""
    return sorted(folder.iterdir()) if is_folder(folder) else []


def folders(folder: Path) -> list[Path]:
    return [path for path in entries(folder) if is_folder(path)]


def ours(path: Path) -> bool:
    """A folder of this user: those of colleagues that are private are theirs to remove."""
    return is_folder(path) and path.stat().st_uid == os.getuid()


def age_s(path: Path) -> float:
    """Since it last changed; 0 if it is gone."""
    try:
        return time.time() - path.lstat().st_mtime
    except FileNotFoundError:
        return 0.0


def size(path: Path) -> int:
    """Bytes of a file, or of all in a folder; links count as themselves."""
    try:
        if not is_folder(path):
            return path.lstat().st_size
        with os.scandir(path) as found:
            return sum(
                size(Path(e)) if e.is_dir(follow_symlinks=False) else e.stat(follow_symlinks=False).st_size
                for e in found
            )
    except FileNotFoundError:  # removed meanwhile
        return 0
