"""The learning rate, with a linear warm-up and steps down (paper: Tables 16 and 17), and the updates of SGD."""

from __future__ import annotations

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


def descend(
    loss: torch.Tensor,
    *,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    clip_norm: float,
) -> None:
    """Update the weights by one step down the gradient of a loss.

    Args:
        loss: a scalar.
        model: the model.
        optimizer: of the model's parameters.
        scaler: of mixed precision; a disabled one changes nothing.
        clip_norm: limit of the norm of all gradients together; 0 for none.
    """
    optimizer.zero_grad(set_to_none=True)
    scaler.scale(loss).backward()
    if clip_norm > 0:
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    scaler.step(optimizer)
    scaler.update()


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = rate
