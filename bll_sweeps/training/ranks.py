"""The ranks of one training: processes that each compute a part of every step's rows and then agree on its gradient.

A single process is rank 0 of 1, and every operation here returns what it was given, to the bit. torch is imported only
where it is used: whoever merely asks for a rank's number stays light.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from bll_sweeps.errors import ConfigError, Interrupted, UsageError
from bll_sweeps.grid.settings import Execution

if TYPE_CHECKING:
    import torch
    from torch import Tensor

T = TypeVar("T")

# All ranks start within seconds of each other, but each may have to import torch from a slow shared filesystem.
START_WITHIN = timedelta(minutes=10)
# A process that ends closes its connections, which its peers notice at once. Only a machine that vanishes without a
# word leaves them waiting for this long, which has to suffice for rank 0 to read, digest or write a checkpoint.
ANSWER_WITHIN = timedelta(hours=1)
BUCKET_ELEMENTS = 2**24  # 64 MiB of float32: large enough for the full bandwidth, small beside a model


class PeerLost(RuntimeError):
    """Another rank does not take part any more. Its own error, if it left one, is the cause."""


@dataclass(frozen=True)
class Ranks:
    """This process among those of its training: number `rank` of `world_size`, the `local_rank`-th on its machine.

    sum, gather, broadcast and the like are called by all ranks, in the same order, inside `connected`. They raise
    PeerLost when another rank is gone.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @classmethod
    def of_environment(cls) -> Ranks:
        """From $RANK, $WORLD_SIZE and $LOCAL_RANK, as torch's launchers and submitit set them; a single process
        without them.
        """
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        found = {name: os.environ.get(name, "") for name in names}
        if found["WORLD_SIZE"] in ("", "1"):
            return SINGLE
        if not all(value.isdecimal() for value in found.values()) or int(found["RANK"]) >= int(found["WORLD_SIZE"]):
            raise UsageError(f"the environment does not say which rank this is: {found}")
        return cls(*(int(found[name]) for name in names))

    @property
    def leads(self) -> bool:
        """Rank 0 alone writes."""
        return self.rank == 0

    def device(self, execution: Execution) -> torch.device:
        """This rank's device. Under SLURM each task sees all GPUs of its node, or only its own.

        Raises ConfigError for a device that is not there.
        """
        import torch

        available = torch.cuda.is_available()
        if execution.device == "cuda" and not available:
            raise ConfigError("execution.device", "cuda", "is not available here: torch sees no GPU")
        if execution.device == "cpu" or not available:
            return torch.device("cpu")
        visible = torch.cuda.device_count()
        if self.world_size == 1:
            return torch.device("cuda")
        if visible == 1:
            return torch.device("cuda", 0)  # ranks that meet are asked for a number
        if self.local_rank >= visible:
            problem = f"has no GPU for rank {self.rank}, number {self.local_rank} of its node: torch sees {visible}"
            raise ConfigError("execution.device", execution.device, problem)
        return torch.device("cuda", self.local_rank)

    @contextlib.contextmanager
    def connected(self, execution: Execution) -> Iterator[None]:
        """Within the block the ranks reach each other: rank 0 at $MASTER_ADDR:$MASTER_PORT, the others through it.

        All ranks leave it together, also when they agreed to stop (Interrupted): a scheduler may end a job with its
        first process. Any other error leaves the connections open until the process ends, so that it can be recorded
        before the peers see them close; besides, NCCL would wait for peers that do not answer.
        """
        if self.world_size == 1:
            yield
            return
        import torch.distributed as dist

        device = self.device(execution)
        with self._peers():
            address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
            store = dist.TCPStore(address, port, self.world_size, self.leads, timeout=START_WITHIN)
            dist.init_process_group(
                "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl",
                store=store,
                rank=self.rank,
                world_size=self.world_size,
                timeout=ANSWER_WITHIN,
                device_id=None if device.type == "cpu" else device,
            )
        interrupted = None
        try:
            yield
        except Interrupted as error:
            interrupted = error
        self.wait()
        dist.destroy_process_group()
        if interrupted:
            raise interrupted

    def sum(self, values: list[float]) -> list[float]:
        """Sums over the ranks, in float64. On the CPU even where there is a GPU: gloo notices a lost peer at once."""
        import torch

        return self._all_reduce(torch.tensor(values, dtype=torch.float64)).tolist() if self.world_size > 1 else values

    def wait(self) -> None:
        """Returns when all ranks are here."""
        self.sum([0.0])

    def sum_gradients(self, parameters: list[Tensor]) -> None:
        """Makes each gradient its sum over the ranks, the same bits on all of them; one that is None counts as 0."""
        if self.world_size == 1:
            return
        import torch

        for bucket in _buckets(parameters):
            flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in bucket])
            for parameter in bucket:
                parameter.grad = None  # frees it before the next bucket is made
            parts = self._all_reduce(flat).split([p.numel() for p in bucket])
            for parameter, part in zip(bucket, parts, strict=True):
                parameter.grad = part.view_as(parameter)

    def gather(self, tensor: Tensor) -> Tensor:
        """The 1-d tensors of all ranks, of whatever lengths but of one dtype, one after another; on every rank."""
        if self.world_size == 1:
            return tensor
        lengths = self.sum([len(tensor) if rank == self.rank else 0.0 for rank in range(self.world_size)])
        start = int(sum(lengths[: self.rank]))
        whole = tensor.new_zeros(int(sum(lengths)))
        whole[start : start + len(tensor)] = tensor
        return self._all_reduce(whole)  # each place is filled by one rank: the others add 0

    def broadcast(self, value: T) -> T:
        """Rank 0's `value` (anything that can be pickled), on every rank."""
        if self.world_size == 1:
            return value
        import torch
        import torch.distributed as dist

        box = [value]
        with self._peers():
            dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]

    def of_the_first(self, tensor: Tensor) -> Tensor:
        """Rank 0's `tensor`, in place, on every rank, which gives one of the same shape, dtype and kind of device."""
        import torch.distributed as dist

        if self.world_size > 1:
            with self._peers():
                dist.broadcast(tensor, src=0)
        return tensor

    @contextlib.contextmanager
    def operations(self) -> Iterator[None]:
        """For what torch lets the ranks do together by itself (a sharded model): a broken connection is PeerLost."""
        try:
            yield
        except RuntimeError as error:
            if self.world_size == 1 or not _is_broken(error):
                raise
            raise _lost(error) from error

    def _all_reduce(self, tensor: Tensor) -> Tensor:
        import torch.distributed as dist

        with self._peers():
            dist.all_reduce(tensor)
        return tensor

    @contextlib.contextmanager
    def _peers(self) -> Iterator[None]:
        """gloo and NCCL raise plain RuntimeErrors; within the block these are about a peer."""
        try:
            yield
        except RuntimeError as error:
            raise _lost(error) from error


SINGLE = Ranks()


def _lost(error: RuntimeError) -> PeerLost:
    return PeerLost(f"no connection to the other ranks ({str(error).strip().partition(chr(10))[0]})")


def _is_broken(error: RuntimeError) -> bool:
    """gloo's errors are plain ones that name its files; NCCL's have a type."""
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or "/gloo/transport/" in str(error)


def _buckets(parameters: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Neighbours of one dtype, up to BUCKET_ELEMENTS together; a larger one alone."""
    bucket: list[Tensor] = []
    size = 0
    for parameter in parameters:
        if bucket and (size + parameter.numel() > BUCKET_ELEMENTS or parameter.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(parameter)
        size += parameter.numel()
    if bucket:
        yield bucket
