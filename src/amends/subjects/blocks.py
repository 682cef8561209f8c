"""The repeated blocks of a model, and forwards that stop behind one of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from amends.core.errors import UserError


class Shell(nn.Module):
    """Calls the model inside it, or only as far as one block; a module, so that DDP and FSDP2 can wrap it.

    DDP sees gradients only of what its own forward returned, so the early stop has to happen inside.
    """

    model: nn.Module

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = model.training  # a model in evaluation mode stays in it

    def forward(self, *inputs: Any, until: float | None = None) -> Tensor:
        """The model's output, or that of block `until`."""
        return self.model(*inputs) if until is None else self.up_to(until, lambda: self.model(*inputs))

    def up_to(self, at: float, call: Callable[[], Any]) -> Tensor:
        """The output of block `at` in a forward that ends there."""

        def stop(_: nn.Module, __: Any, output: Any) -> None:
            raise _Reached(output if isinstance(output, Tensor) else output[0])  # a tuple, or what a library wraps one in

        hook = block(self.model, at).register_forward_hook(stop)
        try:
            call()
        except _Reached as reached:
            return reached.output
        finally:
            hook.remove()
        raise RuntimeError(f"block {at} was not called in a forward of the model")


class _Reached(Exception):
    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output


def blocks(model: nn.Module) -> list[nn.Module]:
    """The longest list of modules of one class (a transformer's layers); else every child that has weights, in order.

    A list of one counts where the model's own configuration says that it has one layer. A module around a single one with
    weights (a normalisation in front of a network) is looked into.
    """
    least = 1 if getattr(getattr(model, "config", None), "num_hidden_layers", None) == 1 else 2
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) >= least and len({type(x) for x in m}) == 1]
    if lists:
        return list(max(lists, key=len))
    found = [child for child in model.children() if any(True for _ in child.parameters())]
    inner = blocks(found[0]) if len(found) == 1 else []
    return inner or found


def block(model: nn.Module, at: float) -> nn.Module:
    """Block `at`, see `place`."""
    found = blocks(model)
    return found[place(at, len(found))]


def place(at: float, num_blocks: int) -> int:
    """The index of a block: counted from 0, or from the end when negative; a float is a share of the depth.

    Raises UserError when there is no such block.

    >>> place(7, 32), place(-1, 32), place(0.25, 32), place(1.0, 32)
    (7, 31, 8, 31)
    """
    index = min(int(at * num_blocks), num_blocks - 1) if isinstance(at, float) else at
    if not -num_blocks <= index < num_blocks:
        raise UserError(f"there is no block {at}: the model has {num_blocks}, 0 to {num_blocks - 1}")
    return index % num_blocks
