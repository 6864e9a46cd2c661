"""Stamps of jobs: what tells whether any file of a job that a result can follow from has changed.

A stamp is a file's size, inode, and times of modification and change, to the nanosecond. The digests of outputs are
checked when a job is first read; a later load does not read an output again whose stamp is the same, so it does not see
bytes that a failing disk changed under an unchanged stamp (remove cache/ to have all checked again).
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path


def job_stamp(folder: Path) -> str:
    """Changes with every file of a job that a result can follow from: spec, DONE, the files of the attempt that it
    points to, later scores, and of an unfinished job its attempts and their failures.
    """
    found: list[str] = []
    try:
        with os.scandir(folder) as entries:
            names = {entry.name: entry for entry in entries}
    except OSError:
        return "absent"
    attempts = sorted(name for name in names if name.startswith("attempt."))
    found += attempts
    for name in ("spec.json", "DONE"):
        if name in names:
            found.append(_stamp(name, names[name].stat(follow_symlinks=False)))
    if "DONE" not in names:
        found += [_path_stamp(folder / name / "failure.json") for name in attempts]
    elif names["DONE"].is_symlink():
        target = os.readlink(names["DONE"].path)  # noqa: PTH115 - as it stands, also where it leads nowhere
        found += [target, *_files(f"{folder}/{target.rpartition('/')[0]}")]
    else:  # a copy that followed links: which attempt it is, only the contents tell
        found += [stamp for name in attempts for stamp in _files(f"{folder}/{name}")]
    if "scores" in names:
        found += _files(f"{folder}/scores")
    return hashlib.sha256("\n".join(found).encode()).hexdigest()[:32]


def _files(folder: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(_stamp(entry.name, entry.stat()) for entry in entries)
    except OSError:
        return [f"{folder.rpartition('/')[2]} absent"]


def _path_stamp(path: Path) -> str:
    try:
        return _stamp(path.name, path.stat())
    except OSError:
        return f"{path.name} absent"


def _stamp(name: str, of: os.stat_result) -> str:
    size = 0 if stat.S_ISDIR(of.st_mode) else of.st_size
    return f"{name} {size} {of.st_ino} {of.st_mtime_ns} {of.st_ctime_ns}"
