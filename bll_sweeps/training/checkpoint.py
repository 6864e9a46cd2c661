"""Checkpoints of a training: complete or absent, checked by digest, without pickle.

    <checkpoints>/step-00000050/model.safetensors  optimizer.safetensors  state.json  COMPLETE.json

COMPLETE.json holds the digests of the other files. The folder gets its name by a rename after all is flushed.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from bll_sweeps.errors import StoreError
from bll_sweeps.store.records import check_output, file_sha256, read_json, write_json
from bll_sweeps.training.model import commit_folder
from bll_sweeps.training.sharding import like, whole

log = logging.getLogger(__name__)

_NAME = re.compile(r"step-(\d{8,})")
_FILES = ("model.safetensors", "optimizer.safetensors", "state.json")


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint after `step` optimiser steps; `state` is the plain data saved with it."""

    folder: Path
    step: int
    state: dict[str, Any]

    def restore(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Copies the saved tensors into the model and the optimizer (which must be made for that model), reading one
        at a time.
        """
        tensors = _model_tensors(model)
        with safe_open(self.folder / "model.safetensors", framework="pt") as saved, torch.no_grad():
            if set(saved.keys()) != tensors.keys():
                raise StoreError(f"{self.folder} is of another model: its tensors have other names")
            for name, tensor in tensors.items():
                tensor.copy_(like(tensor, saved.get_tensor(name)))
        parameters = dict(model.named_parameters())
        optimizer.state.clear()
        with safe_open(self.folder / "optimizer.safetensors", framework="pt") as saved:
            keys = saved.keys()
            for key in keys:
                name, _, slot = key.rpartition("/")
                optimizer.state[parameters[name]][slot] = like(parameters[name], saved.get_tensor(key))


def save(
    folder: Path,
    step: int,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    *,
    write: bool = True,
) -> Path:
    """Writes <folder>/step-<step>/ and then removes the older checkpoints in `folder`. Returns its path.

    All ranks of a sharded model call it, and one writes: a checkpoint is of whole tensors, so that any number of ranks
    can go on from it.
    """
    path = folder / f"step-{step:08d}"
    tensors = _whole(_model_tensors(model), write)
    states = _whole(_optimizer_tensors(model, optimizer), write)
    if not write:
        return path
    temporary = folder / f".{path.name}.{os.getpid()}.tmp"
    for leftover in (temporary, path):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_file(tensors, temporary / "model.safetensors")
    save_file(states, temporary / "optimizer.safetensors")
    write_json(temporary / "state.json", {"step": step, **state})
    for name in _FILES:  # safetensors makes its files private; the group may go on from them as the umask says
        (temporary / name).chmod((temporary / "state.json").stat().st_mode & 0o666)
    digests = {
        name: {"bytes": (temporary / name).stat().st_size, "sha256": file_sha256(temporary / name)} for name in _FILES
    }
    write_json(temporary / "COMPLETE.json", digests)
    commit_folder(temporary, path)
    for _, older in _found([folder]):
        if older != path:
            shutil.rmtree(older, ignore_errors=True)
    return path


def latest(folders: Iterable[Path]) -> Checkpoint | None:
    """The newest complete checkpoint over all `folders` (each an attempt's, the newest attempt first), or None.

    Of equal steps the newest attempt's counts.
    One that is torn or differs from its digests is passed over with a warning that names it.
    """
    for step, path in _found(folders):
        try:
            digests = read_json(path / "COMPLETE.json")
            for name in _FILES:
                check_output(path / name, digests[name])
            return Checkpoint(path, step, read_json(path / "state.json"))
        except FileNotFoundError:
            log.warning("passing over checkpoint %s: it is incomplete (no COMPLETE.json)", path)
        except (StoreError, KeyError, TypeError) as error:
            log.warning("passing over checkpoint %s: %s", path, error)
    return None


def _found(folders: Iterable[Path]) -> list[tuple[int, Path]]:
    """(step, path) of what looks like a checkpoint, newest first; of equal steps that of the first folder."""
    found = []
    for order, folder in enumerate(folders):
        for path in folder.iterdir() if folder.is_dir() else ():
            match = _NAME.fullmatch(path.name)
            if match:
                found.append((int(match[1]), order, path))
    return [(step, path) for step, _, path in sorted(found, key=lambda f: (-f[0], f[1]))]


def _model_tensors(model: torch.nn.Module) -> dict[str, Tensor]:
    """Parameters (shared ones once) and persistent buffers."""
    persistent = model.state_dict().keys()
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in persistent}
    return {**dict(model.named_parameters()), **buffers}


def _whole(tensors: dict[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """Empty without `keep`; then only this rank's part is given."""
    found = {}
    for name, tensor in tensors.items():
        gathered = whole(tensor)
        if keep:
            found[name] = (gathered.cpu() if gathered is not tensor else gathered).detach().contiguous()
    return found


def _optimizer_tensors(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    tensors = {}
    for name, parameter in model.named_parameters():
        for slot, value in optimizer.state.get(parameter, {}).items():
            if value is not None:  # SGD without momentum keeps an empty slot
                tensors[f"{name}/{slot}"] = value
    return tensors
