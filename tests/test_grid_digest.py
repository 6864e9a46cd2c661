"""The digest of a local model directory follows its content and nothing else."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from bll_sweeps.grid.digest import directory_digest


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(8) + os.urandom(1000))
    return folder


def test_two_checkpoints_of_one_architecture_differ(model: Path, tmp_path: Path) -> None:
    other = shutil.copytree(model, tmp_path / "other")
    assert directory_digest(other) == directory_digest(model)
    weights = other / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + bytes([weights.read_bytes()[-1] ^ 1]))
    assert directory_digest(other) != directory_digest(model)


def test_a_large_file_is_told_by_blocks_all_over_it(model: Path, tmp_path: Path) -> None:
    size = 70 * 2**20
    weights = model / "model.safetensors"
    with weights.open("wb") as stream:
        stream.truncate(size)
    before = directory_digest(model)
    with weights.open("r+b") as stream:
        stream.seek(size - 10)
        stream.write(b"x")
    assert directory_digest(model) != before


def test_hidden_folders_of_hub_clients_do_not_count(model: Path) -> None:
    before = directory_digest(model)
    (model / ".cache" / "hub").mkdir(parents=True)
    (model / ".cache" / "hub" / "time").write_text("now")
    assert directory_digest(model) == before


def test_an_empty_weight_file_has_a_digest_and_a_folder_without_config_has_none(model: Path) -> None:
    (model / "model.safetensors").write_bytes(b"")
    assert directory_digest(model)
    (model / "config.json").unlink()
    with pytest.raises(ValueError, match=r"no config\.json"):
        directory_digest(model)
