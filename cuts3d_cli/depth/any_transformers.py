"""Any depth network of transformers: which class runs it, and what it gives, by the type in its configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from cuts3d_cli.config import DepthConfig
from cuts3d_cli.depth.base import GIVES, DepthBackend, DepthSpec, Gives, loaded_spec
from cuts3d_cli.depth.depth_anything import DepthAnything, estimation_type
from cuts3d_cli.depth.pretrained import (
    load_pretrained,
    load_transformers,
    missing_package,
    pretrained_files,
    require_pretrained,
)
from cuts3d_cli.depth.transformers_network import TransformersDepth
from cuts3d_cli.depth.zoedepth import ZoeDepth
from cuts3d_cli.devices import NetworkPrecision
from cuts3d_cli.errors import SettingError, WeightsError

_NEAREST_INVERSE, _FARTHEST_INVERSE = 1e4, 1e-4


class DepthPro(TransformersDepth):
    """Depth Pro: metres, by the field of view that it estimates."""

    def infer(self, batch: torch.Tensor) -> torch.Tensor:
        """Return the inverse distances of a batch, 1/metre."""
        output = self.model(pixel_values=batch)
        if output.field_of_view is None:
            return output.predicted_depth
        scale = 2 * torch.tan(0.5 * torch.deg2rad(output.field_of_view.float()))
        return output.predicted_depth * scale.reshape(-1, 1, 1)

    def finish(self, values: torch.Tensor, *, size: tuple[int, int]) -> torch.Tensor:
        """Bring inverse distances to the size of the image, and then make distances of them."""
        inverse = functional.interpolate(values[None, None], size, mode="bilinear", align_corners=False)[0, 0]
        return 1.0 / inverse.clamp(_FARTHEST_INVERSE, _NEAREST_INVERSE)


class PromptDepthAnything(TransformersDepth):
    """Prompt Depth Anything: metres, from a photo and the map of a sensor."""

    def infer_prompted(self, batch: torch.Tensor, prompt: torch.Tensor) -> torch.Tensor:
        """Return the map of one image with the map of a sensor."""
        if prompt.min() == prompt.max():  # it is stretched to [0, 1]
            prompt = prompt.clone()
            prompt[..., 0, 0] += 1e-6
        return self.model(pixel_values=batch, prompt_depth=prompt).predicted_depth


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What is known of a type of depth networks.

    Attributes:
        runs: the class that runs it.
        gives: direction and unit, by the network's configuration; None: they are not known.
        prompted: whether it needs a sensor's map.
    """

    runs: type[TransformersDepth] = TransformersDepth
    gives: Callable[[Any], Gives | None]
    prompted: bool = False


KINDS: Mapping[str, Kind] = {
    "depth_anything": Kind(runs=DepthAnything, gives=estimation_type),
    "depth_pro": Kind(runs=DepthPro, gives=lambda config: GIVES["metres"]),
    # DINOv2's heads, which give metres, are the ones with a projection.
    "dpt": Kind(gives=lambda config: GIVES["metres" if config.add_projection else "relative-disparity"]),
    "glpn": Kind(gives=lambda config: GIVES["metres"]),
    "prompt_depth_anything": Kind(runs=PromptDepthAnything, gives=lambda config: GIVES["metres"], prompted=True),
    "tipsv2_dpt": Kind(gives=lambda config: GIVES["metres"]),
    "zoedepth": Kind(runs=ZoeDepth, gives=lambda config: GIVES["metres"]),
}
"""`model_type` of a configuration -> what is known. Others are run as they are, and `DepthConfig.gives` says what they
give."""


def load_any(spec: DepthSpec, *, config: DepthConfig, device: str, precision: NetworkPrecision) -> DepthBackend:
    """Load a depth network of transformers; arguments and errors are those of `base.LoadDepth`."""
    require_pretrained(spec, weights=config.weights or spec.folder)
    try:
        from transformers import MODEL_FOR_DEPTH_ESTIMATION_MAPPING, AutoConfig, AutoImageProcessor
    except ImportError as error:
        raise missing_package(spec, error) from error
    folder = config.weights or spec.folder
    # The configuration first: it says which network it is.
    facts = load_pretrained(
        lambda source, local: AutoConfig.from_pretrained(source, local_files_only=local, trust_remote_code=False),
        spec,
        weights=folder,
    )
    if type(facts) not in MODEL_FOR_DEPTH_ESTIMATION_MAPPING:
        raise WeightsError(
            f"{folder or spec.model} holds a network of type {facts.model_type}, which estimates no depth"
        )
    kind = KINDS.get(facts.model_type, Kind(gives=lambda config: None))
    direction, unit = gives(config, kind, facts, name=spec.name)
    if config.zoedepth_flip and kind.runs is not ZoeDepth:
        raise SettingError("depth.zoedepth_flip", f"has no effect on {spec.name}")

    # Then the network itself.
    model_class: Any = MODEL_FOR_DEPTH_ESTIMATION_MAPPING[type(facts)]
    model, processor = load_transformers(model_class, AutoImageProcessor, spec, weights=folder)
    files = pretrained_files(spec, folder)
    spec = loaded_spec(spec, folder, kind=model_class.__name__, direction=direction, unit=unit, prompted=kind.prompted)
    further = {"flip": config.zoedepth_flip} if kind.runs is ZoeDepth else {}
    return kind.runs(spec, model=model, processor=processor, device=device, precision=precision, files=files, **further)


def gives(config: DepthConfig, kind: Kind, facts: Any, *, name: str) -> Gives:
    """Return direction and unit of a network's maps, as its type or the user says.

    Raises:
        SettingError: neither does, or they contradict each other.
    """
    known = kind.gives(facts)
    if config.gives is None:
        if known is None:
            said = ", ".join(GIVES)
            raise SettingError(
                "depth.gives", f"must say what {name} gives, a network of type {facts.model_type}: {said}"
            )
        return known
    if known not in (None, GIVES[config.gives]):
        told = next(word for word, value in GIVES.items() if value == known)
        raise SettingError("depth.gives", f"is '{config.gives}', but {name} is known to give {told}: leave it out")
    return GIVES[config.gives]
