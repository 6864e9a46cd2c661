"""What stands for a local model directory in a job's id: its content, without reading tens of gigabytes of weights."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

_WHOLE_BYTES = 64 * 2**20  # smaller files are read whole
_BLOCK_BYTES = 2**16  # of larger ones, a block in each of _BLOCKS places
_BLOCKS = 64


def directory_digest(folder: Path) -> str:
    """sha256 (hex) over names, sizes and contents of the files in `folder`, hidden ones left out.

    Of large files the safetensors header and 64 evenly spaced blocks are read: two checkpoints of one architecture
    differ in nearly every block. Raises ValueError for a folder without config.json.
    """
    if not (folder / "config.json").is_file():
        raise ValueError("is not a model directory: it holds no config.json")
    rows = []
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = file.relative_to(folder)
        if not any(part.startswith(".") for part in name.parts):  # hub clients keep time stamps in hidden folders
            rows.append([name.as_posix(), file.stat().st_size, _content(file)])
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _content(file: Path) -> str:
    size = file.stat().st_size
    with file.open("rb") as stream:
        if size <= _WHOLE_BYTES:
            return hashlib.file_digest(stream, "sha256").hexdigest()
        digest = hashlib.sha256()
        if file.suffix == ".safetensors":
            length = int.from_bytes(stream.read(8), "little")
            digest.update(stream.read(min(length, _WHOLE_BYTES)))
        for i in range(_BLOCKS):
            stream.seek((size - _BLOCK_BYTES) * i // (_BLOCKS - 1))
            digest.update(stream.read(_BLOCK_BYTES))
    return digest.hexdigest()
