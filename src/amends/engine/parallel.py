"""The one file that knows of processes: Accelerate's DDP, and torch's FSDP2 (`fully_shard`) called directly.

Accelerate sets up the process group and DDP. FSDP2 is called directly on every device, since Accelerate drops an
FSDP plug-in on CPU without a word, and one path that is tested is worth more than two. What was asked for is what
you get, or an error.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from amends.core.errors import UserError

Strategy = Literal["auto", "ddp", "fsdp2"]


class Parallel:
    """The processes of this run: `rank` of `world`, a device each.

    Args:
        strategy: how weights are spread when there are several processes; `auto` is DDP.
        precision: `bf16` runs the forward under autocast; weights stay as they are.
    """

    def __init__(self, strategy: Strategy = "auto", precision: Literal["fp32", "bf16"] = "fp32") -> None:
        self.world = int(os.environ.get("WORLD_SIZE", "1"))
        self.precision = precision
        self._accelerator: Any = None
        self._shell: nn.Module | None = None
        if self.world == 1:
            if strategy != "auto":
                raise UserError(f"parallel: {strategy} needs several processes: start with `accelerate launch`")
            self.rank, self.strategy = 0, "none"
            found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
            self.device = found or torch.device("cpu")
            return
        from accelerate import Accelerator

        self._accelerator = Accelerator(cpu=not torch.accelerator.is_available())
        self.rank, self.device = self._accelerator.process_index, self._accelerator.device
        self.strategy = "fsdp2" if strategy == "fsdp2" else "ddp"
        kind = str(self._accelerator.distributed_type)
        if self._accelerator.num_processes != self.world or not kind.endswith(("MULTI_CPU", "MULTI_GPU")):
            raise UserError(f"parallel: asked for {self.strategy} on {self.world} processes, accelerate set up {kind}")

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    def wrap(self, call: nn.Module, partly: bool = False) -> nn.Module:
        """Puts the strategy around a module and moves it to the device; `partly`: not every step uses every weight."""
        if self.strategy == "none":
            return call.to(self.device)
        if self.strategy == "ddp":
            if partly:
                from accelerate.utils import DistributedDataParallelKwargs

                self._accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=True)
            return self._accelerator.prepare_model(call)
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        self._shell = _hollow(call)
        mesh = init_device_mesh(self.device.type, (self.world,))
        call.to(self.device)
        for block in _blocks(call):
            fully_shard(block, mesh=mesh)
        fully_shard(call, mesh=mesh)
        if hasattr(call, "generate"):
            register_fsdp_forward_method(call, "generate")  # type: ignore[arg-type]
        if not all(type(p).__name__ == "DTensor" for p in call.parameters()):
            raise UserError("parallel: asked for fsdp2, but some parameters were left unsharded")
        return call

    def unwrap(self, wrapped: nn.Module) -> nn.Module:
        """The plain module with full weights, on every process."""
        if self.strategy == "ddp":
            return self._accelerator.unwrap_model(wrapped)
        if self.strategy != "fsdp2":
            return wrapped
        assert self._shell is not None
        wrapped.reshard()  # type: ignore[operator]  # a look without backward leaves the outermost weights gathered, and stale
        whole = {
            id(empty): nn.Parameter(self.full(p.detach()), requires_grad=p.requires_grad)
            for empty, p in zip(self._shell.parameters(), wrapped.parameters(), strict=True)
        }
        for module in self._shell.modules():  # by identity, so that tied weights stay tied
            for name, p in module.named_parameters(recurse=False, remove_duplicate=False):
                setattr(module, name, whole[id(p)])
        for start, now in zip(self._shell.buffers(), wrapped.buffers(), strict=True):
            start.copy_(now)
        return self._shell

    @staticmethod
    def full(tensor: Tensor) -> Tensor:
        """A tensor gathered from its shards (itself when it is whole)."""
        return tensor.full_tensor() if type(tensor).__name__ == "DTensor" else tensor  # type: ignore[attr-defined]

    @staticmethod
    def like(full: Tensor, target: Tensor) -> Tensor:
        """Spreads a whole tensor the way `target` is spread."""
        if type(target).__name__ != "DTensor":
            return full.to(target.device)
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(full.to(target.device), target.device_mesh, target.placements)  # type: ignore[attr-defined]

    @contextmanager
    def backward(self, wrapped: nn.Module, last: bool) -> Iterator[None]:
        """Gradients are exchanged once a step, in its last backward pass."""
        if self.strategy == "ddp" and not last:
            with wrapped.no_sync():  # type: ignore[operator]
                yield
            return
        if self.strategy == "fsdp2":
            wrapped.set_requires_gradient_sync(last)  # type: ignore[operator]
        yield

    def autocast(self) -> Any:
        """The precision of the forward pass."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def sum(self, values: Tensor) -> Tensor:
        """Adds up a small tensor over the processes."""
        if self.world > 1:
            torch.distributed.all_reduce(values)
        return values

    def same(self, value: Any) -> Any:
        """The main process's value, on every process."""
        if self.world == 1:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]

    def barrier(self) -> None:
        """Waits for the other processes."""
        if self.world > 1:
            self._accelerator.wait_for_everyone()


def is_main_process() -> bool:
    """Whether this process is the one that talks, also before any `Parallel` exists."""
    return os.environ.get("RANK", "0") == "0"


def from_main(tensor: Tensor) -> Tensor:
    """The main process's values, in place, on every process, also where no `Parallel` is at hand."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.broadcast(tensor, src=0)
    return tensor


def total(tensor: Tensor) -> Tensor:
    """A small tensor added up over the processes, in place, also where no `Parallel` is at hand."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(tensor)
    return tensor


def local(tensor: Tensor) -> Tensor:
    """This process's share of a tensor, as a view of it (itself when it is whole)."""
    return tensor.to_local() if type(tensor).__name__ == "DTensor" else tensor  # type: ignore[attr-defined]


def _blocks(call: nn.Module) -> list[nn.Module]:
    """The repeated blocks of a model: the elements of every list of two or more modules of one class."""
    found: list[nn.Module] = []
    for module in call.modules():
        if isinstance(module, nn.ModuleList) and len(module) > 1 and len({type(m) for m in module}) == 1:
            found += [m for m in module if any(True for _ in m.parameters())]
    return found


def _hollow(module: nn.Module) -> nn.Module:
    """The same module with parameters on `meta`: the structure to put the gathered weights back into."""
    memo = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad) for p in module.parameters()}
    return copy.deepcopy(module, memo)  # type: ignore[arg-type]
