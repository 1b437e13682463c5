"""Benchmark of a training step: all uses of Spatial Confidence against detectron2's plain Cascade Mask R-CNN."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.modeling.roi_heads import CascadeROIHeads, FastRCNNOutputLayers, MaskRCNNConvUpsampleHead
from detectron2.structures import BitMasks, Instances
from detectron2.utils.events import EventStorage

from bench.common import BenchError, Report, Row, Table, interleaved, log, ratios
from bench.data import rendered
from bench.operations import Operations
from cuts3d_cli.config import TrainConfig
from cuts3d_cli.detector.copy_paste import CopyPaste
from cuts3d_cli.detector.model import build_model, model_config
from cuts3d_cli.detector.samples import draw_geometry, training_sample
from cuts3d_cli.detector.schedule import make_optimizer, update
from cuts3d_cli.sidecars.confidence import StoredConfidence
from cuts3d_cli.sidecars.masks import StoredMask

Batch = list[dict[str, Any]]
"""Training samples as detectron2 takes them."""
GRID = 60
"""Side of the confidence maps, patches."""
PLAIN = "detectron2, plain"
COUNTED = "+ copy-paste, at random"
ALL = "+ all uses of confidence"
OWN: dict[str, dict[str, Any]] = {
    "ours, without the parts": {"copy_paste": False, "soft_loss": False, "drop_loss": False},
    COUNTED: {"copy_paste_select": "random", "alpha": "none", "soft_loss": False, "drop_loss": False},
    ALL: {"copy_paste_select": "confident", "alpha": "spatial", "soft_loss": True, "drop_loss": False},
    "+ DropLoss": {"copy_paste_select": "confident", "alpha": "spatial", "soft_loss": True, "drop_loss": True},
}
"""Ours; each row adds to the one before. Copy-paste adds instances to a batch however they are chosen, so that its cost
is shown apart from that of confidence."""


FURTHER: dict[str, Callable[[torch.nn.Module], object]] = {
    "channels-last": lambda model: model.to(memory_format=torch.channels_last),
    "compiled": lambda model: model.get_submodule("backbone").compile(),
    "graphs": lambda model: model.get_submodule("backbone").compile(mode="reduce-overhead"),
}
"""What else may make a step faster, each on top of all uses of confidence: name -> what it does to the model. Compiled
is the backbone with its pyramid, whose shapes are those of the batch; in the heads they change with what is found.
CUDA graphs are recorded for every shape, and need a GPU."""


@dataclass(frozen=True, kw_only=True)
class _Way:
    """One way to take a training step."""

    model: torch.nn.Module
    config: TrainConfig
    device: torch.device
    plain: bool

    def prepared(self, batch: Batch) -> Batch:
        """Move a batch to the device, in the form that this way reads; not timed."""
        moved = [
            {**sample, "image": sample["image"].to(self.device), "instances": sample["instances"].to(self.device)}
            for sample in batch
        ]
        return [{**sample, "instances": _plain(sample["instances"])} for sample in moved] if self.plain else moved

    def stepper(self) -> Callable[[Batch, int], tuple[float, float]]:
        """Return a function that takes one step and returns the sum of the losses and the processor's seconds."""
        # A learning rate of 0 leaves the weights unchanged, so that each way does the same work in every round.
        config = replace(self.config, learning_rate=0.0)
        optimizer = make_optimizer(self.model, config)
        amp = config.amp and self.device.type == "cuda"
        scaler = torch.amp.GradScaler(self.device.type, enabled=amp)
        paste = CopyPaste(config)

        def step(batch: Batch, seed: int) -> tuple[float, float]:
            begun = time.process_time()
            torch.manual_seed(seed)  # determines which boxes are sampled
            generator = torch.Generator().manual_seed(seed)
            if not self.plain:
                batch = paste(batch, generator=generator)
            with torch.autocast(self.device.type, enabled=amp):
                losses: dict[str, torch.Tensor] = self.model(batch)
            total = torch.stack(list(losses.values())).sum()
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(total).backward()
            update(model=self.model, optimizer=optimizer, scaler=scaler, config=config)
            loss = float(total.detach())  # waits for the device
            return loss, time.process_time() - begun

        return step


def step_overhead(
    config: TrainConfig, *, device: str, batches: int, repeats: int, threads: int, further: Sequence[str] = ()
) -> Report:
    """Time steps of all ways in turn, on the same batches, from the same random weights.

    Args:
        config: determines the model, the batch and the sizes of images.
        device: "cpu", "cuda", ...
        batches: number of batches of rendered scenes with random confidence.
        repeats: rounds over the batches.
        threads: that a CPU computes with.
        further: names of `FURTHER`, to be timed too.

    Returns:
        Seconds per step and ratios to the plain one, over all batches and rounds; losses, to show that ours without
        the parts computes the same as the plain one.

    Raises:
        BenchError: a further way is not known, or needs a GPU.
    """
    if unknown := [name for name in further if name not in FURTHER]:
        raise BenchError(f"there is no way {', '.join(unknown)}: choose from {', '.join(FURTHER)}")
    if "graphs" in further and torch.device(device).type != "cuda":
        raise BenchError(f"CUDA graphs need a GPU, and the device is {device}")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return _measured(config, torch.device(device), batches, repeats, further)
    finally:
        torch.set_num_threads(before)


def _measured(base: TrainConfig, device: torch.device, batches: int, repeats: int, further: Sequence[str]) -> Report:
    # Give all models the same weights.
    made = random_batches(base, count=batches)
    ways = {PLAIN: _Way(model=plain_model(base, device=device), config=base, device=device, plain=True)}
    for name, changes in OWN.items():
        config = replace(base, **changes)
        ways[name] = _Way(model=build_model(config, device=device), config=config, device=device, plain=False)
    for name in further:
        ways[f"{ALL}, {name}"] = replace(ways[ALL], model=build_model(ways[ALL].config, device=device))
    weights = copy.deepcopy(ways[PLAIN].model.state_dict())
    for way in ways.values():
        way.model.load_state_dict(weights)
        way.model.train()
    for name in further:
        FURTHER[name](ways[f"{ALL}, {name}"].model)

    # Time a step of each in turn, batch by batch.
    steppers = {name: way.stepper() for name, way in ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    worked: dict[str, list[float]] = {name: [] for name in ways}
    losses: dict[str, float] = {}
    counts: dict[str, tuple[float, float]] = {name: (0.0, 0.0) for name in ways}
    with EventStorage():
        for number, batch in enumerate(made):
            log(f"train-step: batch {number + 1} of {len(made)}")
            prepared = {name: way.prepared(batch) for name, way in ways.items()}
            actions = {name: partial(step, prepared[name], number) for name, step in steppers.items()}
            for name, action in actions.items():  # once before the clock runs: memory, kernels, threads
                with Operations() as counted:
                    losses[name] = losses.get(name, 0.0) + action()[0] / len(made)
                done, waits = counts[name]
                counts[name] = (done + counted.count / len(made), waits + counted.waits / len(made))
            timed = interleaved(actions, repeats=repeats)
            for name in ways:
                seconds[name] += timed.seconds[name]
                worked[name] += [spent for _, spent in timed.results[name]]

    # One row per way, with ratios to the plain one.
    rows: list[Row] = [
        {
            "step": name,
            "seconds": median(seconds[name]),
            **ratios(seconds[name], seconds[PLAIN]),
            "to random copy-paste": ratios(seconds[name], seconds[COUNTED])["ratio"],
            "processor's seconds": median(worked[name]),
            "ratio of these": ratios(worked[name], worked[PLAIN])["ratio"],
            "operations": counts[name][0],
            "ratio of operations": counts[name][0] / counts[PLAIN][0],
            "waits": counts[name][1],
            "loss": losses[name],
        }
        for name in ways
    ]
    shapes = sorted({"x".join(map(str, sample["image"].shape[1:])) for batch in made for sample in batch})
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return Report(
        name="train-step",
        tables=[Table("a training step against detectron2's plain one", rows)],
        notes=[
            f"ResNet-{base.resnet_depth}, random weights; {where}; {len(made)} batches of {base.images_per_batch},"
            f" {', '.join(shapes)} pixels; rounds: {repeats}, interleaved; medians, ratios of pairs.",
            "A step is copy-paste, forward, backward, clipping and the optimizer's step, without reading, decoding and"
            " the transfer to the device. The learning rate is 0, so that all start from the same weights.",
            "The processor's seconds hardly depend on other load. Operations are those that a step hands to its device,"
            " on a GPU without those of the backward pass; waits, how often it needs to know what came out. Neither"
            " depends on the machine.",
        ],
    )


def plain_model(config: TrainConfig, *, device: torch.device) -> torch.nn.Module:
    """Build detectron2's own Cascade Mask R-CNN with the same settings and names of weights.

    Args:
        config: of the model.
        device: where to put it.
    """
    tree = model_config(config, norm="BN" if config.norm == "SyncBN" else config.norm)
    heads = tree.roi_heads
    heads._target_ = CascadeROIHeads
    for predictor in heads.box_predictors:
        predictor._target_ = FastRCNNOutputLayers
        del predictor["drop_iou"]
    heads.mask_head._target_ = MaskRCNNConvUpsampleHead
    del heads.mask_head["soft"]
    model: torch.nn.Module = instantiate(tree)
    return model.to(device)


def random_batches(config: TrainConfig, *, count: int) -> list[Batch]:
    """Make training batches of rendered scenes, resized as in training, with random confidence.

    Args:
        config: the fields on data.
        count: number of batches.
    """
    batches = []
    for number in range(count):
        batch = []
        for index in range(config.images_per_batch):
            photo = rendered(number * config.images_per_batch + index)
            rng = np.random.default_rng([number, index])
            codes = [item["segmentation"] for item in photo.instances]
            counts = rng.choice(np.array([3, 4, 5, 6], dtype=np.uint8), size=(len(codes), GRID, GRID))
            scores = [float(values.mean()) / 6 for values in counts]
            sample = training_sample(
                photo.image,
                [StoredMask.of(code) for code in codes],
                StoredConfidence(counts=counts, scores=scores, levels=6, floor=0.5, source="depth"),
                geometry=draw_geometry(photo.size, config=config, seed=(config.seed, number, index)),
            )
            batch.append({**sample, "key": photo.name, "shard": "-"})
        batches.append(batch)
    return batches


def _plain(instances: Instances) -> Instances:
    """Return what detectron2's own mapper would return."""
    found = Instances(instances.image_size)
    found.gt_boxes = instances.gt_boxes
    found.gt_classes = instances.gt_classes
    found.gt_masks = BitMasks(instances.gt_masks.dense())
    return found
