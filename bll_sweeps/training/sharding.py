"""A model whose weights, gradients and optimizer states are split over the ranks (FSDP2), and whole tensors of it.

What is collective here is called by all ranks, in the same order. For a model that is not sharded everything returns
what it was given.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bll_sweeps.errors import UsageError
from bll_sweeps.training.ranks import Ranks

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def shard(model: PreTrainedModel, device: torch.device, ranks: Ranks, compute: torch.dtype | None = None) -> None:
    """Splits each layer, then the rest, over the ranks, in place: `model` is on the CPU, with the weights that count on
    rank 0, and perhaps without any (on the meta device) on the others. Only one tensor of it at a time is whole on a
    device. Gradients are summed over the ranks, not averaged: the loss is that of the whole step already. Collective.

    compute: what layers' weights are gathered in. Under autocast from float32 every layer would keep a cast of its own
    until the backward pass: the whole model on each device.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(device.type, (ranks.world_size,))
    layers = [module for module in model.modules() if type(module).__name__ in set(model._no_split_modules or ())]
    head, tied = model.get_output_embeddings(), ranks.broadcast(_tied(model))
    if tied != _tied(model):  # by its configuration, here, and by its file on rank 0
        raise UsageError(f"{type(model).__name__}: its configuration and its weights do not agree on tied embeddings")
    given = _tensors(model) if ranks.leads else {}
    model.to("meta")
    if tied:  # what moves and splits modules does not know of it
        head.weight = model.get_input_embeddings().weight
    # The head's weight is used outside of its module: it is gathered where that happens (see whole_with_gradient), also
    # where it is the input embedding, which therefore does not stay whole after the forward pass.
    plain = MixedPrecisionPolicy()
    cast = MixedPrecisionPolicy(compute, torch.float32, cast_forward_inputs=False) if compute else plain
    for modules, policy in ((layers, cast), ([*([] if tied else [head]), model.base_model], plain)):
        for module in modules:
            fully_shard(module, mesh=mesh, reshard_after_forward=True, mp_policy=policy)
    model.to_empty(device=device)
    if tied:
        head.weight = model.get_input_embeddings().weight
    for name, tensor in _tensors(model).items():
        mine = (
            given.pop(name).to(device) if ranks.leads else torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
        )
        with torch.no_grad():
            tensor.copy_(like(tensor, ranks.of_the_first(mine)))
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # else a factor of 1 is an operation that gloo lacks


@contextlib.contextmanager
def callable_head(model: PreTrainedModel) -> Iterator[None]:
    """Within the block a sharded model may be called as a whole: a tied head has a whole weight. Collective."""
    head: Any = model.get_output_embeddings()
    part = head.weight
    if not (_is_distributed(part) and _tied(model)):
        yield
        return
    head.weight = torch.nn.Parameter(whole(part), requires_grad=False)
    try:
        yield
    finally:
        head.weight = part


def _tied(model: PreTrainedModel) -> bool:
    head: Any = model.get_output_embeddings()
    return any(parameter is head.weight for parameter in model.base_model.parameters())


def _tensors(model: torch.nn.Module) -> dict[str, Tensor]:
    """Parameters (shared ones once) and buffers, also those that are not saved."""
    return {name: tensor.detach() for name, tensor in (*model.named_parameters(), *model.named_buffers())}


def is_sharded(model: torch.nn.Module) -> bool:
    return any(_is_distributed(parameter) for parameter in model.parameters())


def whole(tensor: Tensor) -> Tensor:
    """All of it, on every rank, without gradient. Collective."""
    return tensor.detach().full_tensor() if _is_distributed(tensor) else tensor  # type: ignore[attr-defined]


def whole_with_gradient(tensor: Tensor) -> Tensor:
    """All of it, on every rank; gradients of all ranks are summed into the shards. Collective, in both directions."""
    if not _is_distributed(tensor):
        return tensor
    from torch.distributed.tensor import Partial

    return tensor.full_tensor(grad_placements=[Partial()])  # type: ignore[attr-defined]


def like(tensor: Tensor, given: Tensor) -> Tensor:
    """This rank's part of `given`, which is whole on every rank, split as `tensor` is. No communication."""
    if not _is_distributed(tensor) or given.shape != tensor.shape:
        return given.to(tensor.device)
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = tensor.device_mesh, tensor.placements  # type: ignore[attr-defined]
    return distribute_tensor(given.to(tensor.device), mesh, placements, src_data_rank=None)


def whole_state(model: torch.nn.Module, *, keep: bool = True) -> dict[str, Tensor] | None:
    """The state dict of a sharded model, whole and on the CPU, shared tensors still shared; empty without `keep`, on
    ranks that only take part. Collective. None for one that is not sharded: it has its own.
    """
    if not is_sharded(model):
        return None
    once: dict[int, Tensor] = {}
    shared = dict(model.named_parameters(remove_duplicate=False))
    out = {}
    for name, tensor in model.state_dict().items():
        key = id(shared.get(name, tensor))
        if key not in once:
            gathered = whole(tensor)
            once[key] = gathered.cpu() if keep else gathered.new_empty(0)
        out[name] = once[key]
    return out if keep else {}


def _is_distributed(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor")  # DTensor, which takes a second to import
