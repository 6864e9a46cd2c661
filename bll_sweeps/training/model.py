"""Models and tokenizers in the hub's folder format: load, save, take apart into hidden states and head."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bll_sweeps.errors import StoreError, UsageError
from bll_sweeps.grid.settings import Execution
from bll_sweeps.store.records import fsync_folder
from bll_sweeps.training.ranks import SINGLE, Ranks
from bll_sweeps.training.sharding import callable_head, whole

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from bll_sweeps.training.packing import MicroBatch


def load_model(folder: Path, dtype: str = "float32", *, weights: bool = True) -> PreTrainedModel:
    """The causal language model in `folder`, on the CPU, in eval mode; without `weights` on the meta device. No code of
    the folder's own is run, and nothing is unpickled.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    _require(folder)
    _no_bars()
    how: dict[str, Any] = {"dtype": getattr(torch, dtype), "attn_implementation": "sdpa", "trust_remote_code": False}
    if weights:
        model = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True, local_files_only=True, **how)
    else:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, **how)
    return model.eval()


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    _require(folder)
    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def load_checkpoint(
    folder: Path, execution: Execution | None = None, dtype: str = "float32", *, weights: bool = True
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer in `folder`; with an execution, the model on its device and torch on its threads."""
    model = load_model(folder, dtype, weights=weights)
    if execution:
        model.to(use_device(execution))
    return model, load_tokenizer(folder)


def use_device(execution: Execution, ranks: Ranks = SINGLE) -> torch.device:
    """Sets torch's threads and this rank's device, which is returned."""
    if torch.get_num_threads() != execution.threads:
        torch.set_num_threads(execution.threads)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for `deterministic`; read when cuBLAS starts
    device = ranks.device(execution)
    if device.index is not None:
        torch.cuda.set_device(device)  # for what asks for "cuda" and means this process's
    return device


def use_attention(model: PreTrainedModel, kernel: str) -> None:
    """UsageError where it is not installed, or the model has no such path."""
    if kernel == "sdpa":
        return
    try:
        model.set_attn_implementation(kernel)
    except (ImportError, ValueError) as error:
        told = " ".join(str(error).split())
        raise UsageError(f"execution.attention={kernel!r} cannot be used for {type(model).__name__}: {told}") from None


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    """Only operations that give the same bits every time; the settings before are put back.

    On a GPU an operation without such a form gives a warning instead of an error, and attention may take a faster one
    without it: a resumed training there is the same up to rounding.
    """
    settings: Any = torch.utils.deterministic
    fill = settings.fill_uninitialized_memory
    before = torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
    settings.fill_uninitialized_memory = False  # costs time, and nothing here reads such memory
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)
        settings.fill_uninitialized_memory = fill


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    state: dict[str, Tensor] | None = None,
) -> None:
    """Writes both (safetensors) to a temporary folder, flushed and renamed to `folder`, which must be absent. state:
    the model's tensors, where it does not hold all of them itself.
    """
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    _no_bars()
    model.save_pretrained(temporary, state_dict=state)
    tokenizer.save_pretrained(temporary)
    commit_folder(temporary, folder)


def commit_folder(temporary: Path, folder: Path) -> None:
    """Flushes every file of `temporary` and renames it: `folder` is there whole or not at all."""
    for path in sorted(temporary.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    fsync_folder(temporary)
    temporary.rename(folder)
    fsync_folder(folder.parent)


def hidden_states(model: PreTrainedModel, batch: MicroBatch) -> Tensor:
    """The last hidden states at the supervised positions [N, D]: other positions never become logits."""
    own: dict[str, Any] = {} if batch.position_ids is None else {"position_ids": batch.position_ids}
    hidden = model.base_model(input_ids=batch.inputs, use_cache=False, **own).last_hidden_state
    return hidden.flatten(0, 1).index_select(0, batch.positions)


def head_weight(model: PreTrainedModel) -> Tensor:
    """The output embedding [V, D]. UsageError for a head that is more than that: what it adds would not be trained."""
    head: Any = model.get_output_embeddings()
    parts = [] if head is None else [name for name, _ in head.named_parameters()]
    if parts != ["weight"]:
        has = f"has {', '.join(parts)}" if parts else "is missing"
        raise UsageError(
            f"{type(model).__name__} cannot be trained here: its output embedding must be one weight, without bias or "
            f"adapter, but {has}"
        )
    return head.weight


@torch.no_grad()
def check(model: PreTrainedModel, ids: list[int], *, packed: bool = False) -> None:
    """Verifies on `ids` what training relies on: logits are hidden @ head, right padding changes nothing, and with
    `packed` neither do other sequences in the same line. Collective for a sharded model.

    Raises UsageError for a model with scaled or capped logits, or one that looks ahead or at other sequences.
    """
    training = model.training
    model.eval()
    table = whole(head_weight(model))
    device = table.device
    alone = torch.tensor([ids], device=device)
    with callable_head(model):
        expected = model(input_ids=alone, use_cache=False).logits[0].double()
    padded = torch.tensor([ids + ids[:1] * 3], device=device)
    hidden = model.base_model(input_ids=padded, use_cache=False).last_hidden_state[0, : len(ids)]
    found = {"its logits are not its hidden states times its output embedding, or it looks ahead": hidden}
    if packed:
        line = torch.tensor([ids[::-1] + ids + ids[:2]], device=device)
        places = torch.cat([torch.arange(n) for n in (len(ids), len(ids), 2)])[None].to(device)
        hidden = model.base_model(input_ids=line, position_ids=places, use_cache=False).last_hidden_state
        apart = "it does not keep packed sequences apart (execution.packing=false pads them)"
        found[apart] = hidden[0, len(ids) : 2 * len(ids)]
    model.train(training)
    for problem, hidden in found.items():
        logits = hidden @ table.T
        error, scale = (logits.double() - expected).abs().max(), expected.abs().max()
        # Products of 8 bits of mantissa are off by some percent of the largest logit.
        tolerance = 3e-2 if logits.dtype == torch.bfloat16 else 1e-3
        if not error <= tolerance * scale + 1e-5:
            off = f"they differ by {error.item():.3g}, the largest is {scale.item():.3g}"
            raise UsageError(f"{type(model).__name__} cannot be trained here: {problem} ({off})")


def _no_bars() -> None:
    """transformers draws progress bars into whatever log a job has."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()


def _require(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise StoreError(f"{folder} holds no model (no config.json)")
