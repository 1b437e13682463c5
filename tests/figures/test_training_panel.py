from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cuts3d_cli.figures import training_panel
from cuts3d_cli.figures.overlay import colour_map
from cuts3d_cli.figures.palette import instance_colours
from cuts3d_cli.figures.sheet import png_bytes
from cuts3d_cli.figures.training_panel import draw_training_samples
from tests.support.training_data import box, sample_of

SIZE = (20, 40)
WIDTH = 160


def _sample(*, pasted: bool | None = None) -> dict[str, Any]:
    image = np.full((*SIZE, 3), 90, dtype=np.uint8)
    sample = sample_of(image, [box(SIZE, 2, 3, 12, 10), box(SIZE, 5, 20, 10, 14)], confidence=[0.6, 0.8])
    if pasted is not None:
        sample["instances"].gt_pasted = torch.tensor([False, pasted])
    return sample


def _panels(monkeypatch: pytest.MonkeyPatch, batch: list[dict[str, Any]]) -> list[tuple[str, list[Any]]]:
    """The rows that would be laid out."""
    seen: list[tuple[str, list[Any]]] = []

    def laid_out(rows: list[tuple[str, list[Any]]], **_: Any) -> Image.Image:
        seen.extend(rows)
        return Image.new("RGB", (1, 1))

    monkeypatch.setattr(training_panel, "compare", laid_out)
    draw_training_samples(batch, width=WIDTH)
    return seen


def test_a_row_names_and_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    for pasted, title in [(None, "2 instances"), (False, "2 instances"), (True, "2 instances, 1 pasted (+)")]:
        ((heading, panels),) = _panels(monkeypatch, [_sample(pasted=pasted)])
        assert heading == "k, 40x20"
        assert panels[1].title == title
    ((_, panels),) = _panels(monkeypatch, [sample_of(np.zeros((*SIZE, 3), np.uint8), [box(SIZE, 1, 1, 3, 3)])])
    assert panels[1].title == "1 instance"


def test_boxes_and_masks_lie_where_they_belong(monkeypatch: pytest.MonkeyPatch) -> None:
    # Drawn at 4 times the size: the first instance has rows 8 to 55 and columns 12 to 51, the second 20 and 80 on.
    ((_, (plain, drawn, _)),) = _panels(monkeypatch, [_sample()])
    assert (plain.image == 90).all()
    first, second = instance_colours(2)
    assert drawn.image.shape == (80, WIDTH, 3)
    for corner in [(8, 12), (8, 51), (55, 12), (55, 51)]:
        assert tuple(drawn.image[corner]) == first
    assert tuple(drawn.image[20, 80]) == second
    assert tuple(drawn.image[70, 5]) == (90, 90, 90)
    assert tuple(drawn.image[30, 30]) == tuple(np.rint(90 * 0.6 + 0.4 * np.array(first)).astype(int))


def test_confidence_shows_in_masks_and_where_there_is_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = _sample()
    sample["instances"].gt_confidence.maps[0, 16:18, :] = 51  # 0.2, below the mask
    ((_, (_, _, heat)),) = _panels(monkeypatch, [sample])
    # All three are whole numbers of 255ths.
    colours = colour_map(np.array([[0.6, 0.8, 0.2]]), name="viridis", lo=0.0, hi=1.0)[0].tolist()
    assert [heat.image[at].tolist() for at in [(30, 30), (30, 100), (66, 10)]] == colours
    assert tuple(heat.image[2, 2]) == (30, 30, 30)


def test_the_lowest_of_overlapping_instances_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = [box(SIZE, 0, 0, 10, 10), box(SIZE, 0, 0, 10, 10)]
    sample = sample_of(np.zeros((*SIZE, 3), np.uint8), masks, confidence=[0.6, 1.0])
    ((_, (_, _, heat)),) = _panels(monkeypatch, [sample])
    expected = colour_map(np.array([[0.6]]), name="viridis", lo=0.0, hi=1.0)[0, 0]
    assert heat.image[10, 10].tolist() == expected.tolist()


def test_the_sheet_is_the_same_twice_and_the_batch_as_it_was() -> None:
    batch = [_sample(pasted=True), sample_of(np.zeros((50, 31, 3), np.uint8), [])]
    first, second = (png_bytes(draw_training_samples(batch, width=WIDTH)) for _ in range(2))
    assert first == second
    assert (batch[0]["image"] == 90).all()
    taller = draw_training_samples(batch, width=WIDTH)
    assert taller.height > draw_training_samples(batch, width=WIDTH, shown=1).height
    with pytest.raises(ValueError, match="at least one panel"):
        draw_training_samples([])
