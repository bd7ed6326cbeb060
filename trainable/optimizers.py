"""Optimizers whose learning rate is a tensor on the device, with clipping and averaging over workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from trainable.collective import average

OptimizerName = Literal["sgd", "adam", "adamw"]


@dataclass(frozen=True)
class OptimizerSpec:
    """How some networks are optimized.

    Attributes:
        nets: names of the networks whose parameters it updates.
        lr: step of the phase to learning rate. lr_floor: below which no parameter's rate goes.
        name: sgd, adam or adamw.
        head_lr_mult: factor for every parameter outside a module named `encoder`.
        head_bias_lr_mult: further factor for the biases among them. head_bias_decay: whether those decay.
        momentum: of SGD. nesterov: of SGD. betas: of Adam. weight_decay: of all.
        clip: largest norm of the gradient over all parameters; 0 = none.
    """

    nets: tuple[str, ...]
    lr: Callable[[int], float]
    lr_floor: float = 0.0
    name: OptimizerName = "sgd"
    head_lr_mult: float = 1.0
    head_bias_lr_mult: float = 1.0
    head_bias_decay: bool = True
    momentum: float = 0.9
    nesterov: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    clip: float = 0.0


class Optimizer:
    """One optimizer over some networks.

    Args:
        spec: what to build.
        nets: all networks by name.
        world_size: number of workers whose gradients are averaged.
    """

    def __init__(self, spec: OptimizerSpec, nets: Mapping[str, nn.Module], world_size: int = 1) -> None:
        self.spec = spec
        self._world_size = world_size
        encoder: list[nn.Parameter] = []
        rest: list[nn.Parameter] = []
        biases: list[nn.Parameter] = []
        apart = spec.head_bias_lr_mult != 1.0 or not spec.head_bias_decay
        for net in spec.nets:
            for name, parameter in nets[net].named_parameters():
                if parameter.requires_grad:
                    head = biases if apart and name.endswith(".bias") else rest
                    (encoder if name.startswith("encoder.") else head).append(parameter)
        self._parameters = encoder + rest + biases
        bias_factor = spec.head_lr_mult * spec.head_bias_lr_mult
        parts = [(1.0, encoder), (spec.head_lr_mult, rest), (bias_factor, biases)]
        self._factors = [factor for factor, part in parts if part]
        groups: list[dict[str, Any]] = [{"params": part} for _, part in parts if part]
        if biases and not spec.head_bias_decay:
            groups[-1]["weight_decay"] = 0.0
        self._lr = torch.zeros((), device=self._parameters[0].device)
        self._optimizer = _build(spec, groups, self._lr.device)

    def set_lr(self, lr: float) -> None:
        """Write the learning rate of the coming step into the device's tensors, without waiting."""
        self._lr.fill_(max(lr, self.spec.lr_floor))
        for group, factor in zip(self._optimizer.param_groups, self._factors, strict=True):
            group["lr"].fill_(max(lr * factor, self.spec.lr_floor))

    @property
    def lr(self) -> Tensor:
        """The base learning rate of the coming step, on the device."""
        return self._lr

    def step(self, held: Iterable[tuple[Sequence[Tensor], Tensor]] = ()) -> None:
        """Average the gradients over the workers, clip them, update the parameters, forget the gradients.

        Args:
            held: parameters with a number on the device, float[]: 1 where they are updated as all others, 0 where they
                and what the optimizer remembers of them stay as they are. Without a gradient alone, momentum and weight
                decay would still move them.
        """
        average([p.grad for p in self._parameters if p.grad is not None], self._world_size)
        if self.spec.clip:
            nn.utils.clip_grad_norm_(self._parameters, self.spec.clip)
        before = [(parameters, moves, self._copies(parameters)) for parameters, moves in held]
        self._optimizer.step()
        for parameters, moves, old in before:
            self._put_back(parameters, moves, old)
        self._optimizer.zero_grad(set_to_none=True)

    def _copies(self, parameters: Sequence[Tensor]) -> dict[tuple[int, str], Tensor]:
        """By place and name: the parameters, and what the optimizer remembers of them."""
        return {key: tensor.detach().clone() for key, tensor in self._remembered(parameters).items()}

    def _remembered(self, parameters: Sequence[Tensor]) -> dict[tuple[int, str], Tensor]:
        found = {(place, ""): parameter.detach() for place, parameter in enumerate(parameters)}
        for place, parameter in enumerate(parameters):
            known = self._optimizer.state.get(parameter, {})
            found |= {(place, name): value for name, value in known.items() if isinstance(value, Tensor)}
        return found

    def _put_back(
        self, parameters: Sequence[Tensor], moves: Tensor, old: Mapping[tuple[int, str], Tensor]
    ) -> None:
        """Undo the update where `moves` is 0; what the optimizer did not know before was 0."""
        new = self._remembered(parameters)
        torch._foreach_mul_(list(new.values()), moves)
        stayed = torch._foreach_mul(list(old.values()), 1 - moves)
        torch._foreach_add_([new[key] for key in old], stayed)

    def zero_grad(self) -> None:
        """Forget the gradients, for example those that another network's loss left here."""
        self._optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """Everything a resume needs."""
        return self._optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""
        self._optimizer.load_state_dict(state)
        for group in self._optimizer.param_groups:
            # A state that was read from a file brings its rates on the CPU.
            group["lr"] = group["lr"].to(self._lr.device)


def _build(spec: OptimizerSpec, groups: list[dict[str, Any]], device: torch.device) -> torch.optim.Optimizer:
    for group in groups:
        group["lr"] = torch.zeros((), device=device)
    lr = torch.zeros((), device=device)
    if spec.name == "sgd":
        return torch.optim.SGD(
            groups, lr=lr, momentum=spec.momentum, nesterov=spec.nesterov and spec.momentum > 0,
            weight_decay=spec.weight_decay, fused=True,
        )  # fmt: skip
    kind = torch.optim.AdamW if spec.name == "adamw" else torch.optim.Adam
    return kind(groups, lr=lr, betas=spec.betas, weight_decay=spec.weight_decay, fused=True)
