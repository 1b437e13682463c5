"""Clipping of gradients."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from cuts3d_cli.config import PRESETS
from cuts3d_cli.detector.schedule import clip_each, update


def model_with_gradients() -> torch.nn.Module:
    """Three parameters with gradients of very different norms, and one without."""
    torch.manual_seed(0)
    model = torch.nn.ParameterList([torch.randn(5, 7), torch.randn(3), torch.randn(4, 2, 2), torch.randn(2)])
    for parameter, scale in zip(list(model)[:3], (10.0, 0.01, 1.0), strict=True):
        parameter.grad = torch.randn_like(parameter) * scale
    return model


def norms(model: torch.nn.Module) -> list[float]:
    return [float(parameter.grad.norm()) for parameter in model.parameters() if parameter.grad is not None]


def test_each_gradient_is_clipped_by_itself():
    model = model_with_gradients()
    before = norms(model)
    expected = copy.deepcopy(model)
    for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        theirs.grad = None if ours.grad is None else ours.grad.clone()
        torch.nn.utils.clip_grad_norm_(theirs, 1.0)
    clip_each(model.parameters(), 1.0)
    for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        assert ours.grad is theirs.grad is None or torch.equal(ours.grad, theirs.grad)
    assert norms(model) == pytest.approx([1.0, before[1], 1.0], rel=1e-5)
    clip_each([torch.nn.Parameter(torch.ones(2))], 1.0)  # there is nothing to clip


@pytest.mark.parametrize(
    ("clip", "limit", "expected"),
    [("parameter", 1.0, "each"), ("model", 1.0, "all"), ("parameter", 0.0, "none"), ("model", 0.0, "none")],
)
def test_an_update_clips_as_it_is_set(clip: str, limit: float, expected: str):
    model = model_with_gradients()
    before = norms(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    config = replace(PRESETS["paper"].train, clip=clip, clip_norm=limit)
    update(model=model, optimizer=optimizer, scaler=torch.amp.GradScaler("cpu", enabled=False), config=config)
    after = norms(model)
    total = sum(norm**2 for norm in after) ** 0.5
    if expected == "each":
        assert after == pytest.approx([1.0, before[1], 1.0], rel=1e-5)
    elif expected == "all":
        assert total == pytest.approx(1.0, rel=1e-5)
        assert after[1] == pytest.approx(before[1] * after[0] / before[0], rel=1e-5)
    else:
        assert after == before


def test_the_presets_of_the_paper_and_of_cutler_clip_each_parameter():
    for name in ("paper", "cutler"):
        for section in (PRESETS[name].train, PRESETS[name].selftrain):
            assert (section.clip, section.clip_norm) == ("parameter", 1.0)
