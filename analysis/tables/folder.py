"""The folder that a command writes into."""

from __future__ import annotations

from pathlib import Path

from bll_sweeps.errors import UsageError


def made(folder: Path) -> Path:
    """The folder, made if it is not there. Raises UsageError naming it where it cannot be one."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out={folder} cannot be made a folder ({error.strerror})") from None
    return folder
