"""The learning rate, with a linear warm-up and steps down (paper: Tables 16 and 17), and the updates of SGD."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from cuts3d_cli.config import TrainConfig


def learning_rate(iteration: int, config: TrainConfig) -> float:
    """Return the learning rate of an iteration, counted from 0."""
    decays = sum(iteration >= step for step in config.decay_steps)
    rate = config.learning_rate * config.decay_factor**decays
    if iteration < config.warmup_iter:
        share = iteration / config.warmup_iter
        rate *= config.warmup_factor * (1 - share) + share
    return rate


def make_optimizer(model: torch.nn.Module, config: TrainConfig) -> torch.optim.SGD:
    """Return SGD with momentum; the weights of normalisation layers do not decay."""
    from detectron2.solver.build import get_default_optimizer_params

    parameters = get_default_optimizer_params(
        model, base_lr=config.learning_rate, weight_decay=config.weight_decay, weight_decay_norm=0.0
    )
    return torch.optim.SGD(parameters, lr=config.learning_rate, momentum=config.momentum)


def update(
    *,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    config: TrainConfig,
) -> None:
    """Update the weights by the gradients that are there.

    Args:
        model: the model.
        optimizer: of the model's parameters.
        scaler: of mixed precision, which has scaled the gradients; a disabled one changes nothing.
        config: the fields `clip` and `clip_norm`.
    """
    if config.clip_norm > 0:
        scaler.unscale_(optimizer)
        if config.clip == "model":
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        else:
            clip_each(model.parameters(), config.clip_norm)
    scaler.step(optimizer)
    scaler.update()


def clip_each(parameters: Iterable[torch.nn.Parameter], limit: float) -> None:
    """Scale down the gradient of each parameter whose norm is over a limit (CutLER's setting).

    It is `clip_grad_norm_` of each parameter by itself, in few calls of a GPU's kernels.

    Args:
        parameters: of a model; those without a gradient are left alone.
        limit: the largest L2 norm.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if gradients:
        norms = torch.stack(list(torch._foreach_norm(gradients)))
        torch._foreach_mul_(gradients, list((limit / (norms + 1e-6)).clamp(max=1.0)))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = rate
