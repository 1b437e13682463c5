"""Marigold, one of the paper's four depth sources (Table 7), through diffusers."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cuts3d_cli.config import DepthConfig
from cuts3d_cli.depth.base import DepthSpec, loaded_spec
from cuts3d_cli.depth.pretrained import load_pretrained, missing_package, pretrained_files, require_pretrained
from cuts3d_cli.depth.torch_network import TorchDepthBackend, to_unit_tensor
from cuts3d_cli.devices import NetworkPrecision
from cuts3d_cli.errors import UsageError, WeightsError

PROCESSING_RESOLUTION = 768
"""Longer side that the network sees, pixels, where the pipeline's own configuration does not say."""


@dataclass(frozen=True, kw_only=True)
class MarigoldSettings:
    """What Marigold alone can be told.

    Attributes:
        steps: denoising steps, at least 1.
        ensemble: predictions to merge, at least 1.
        seed: of the noise that the first prediction of every image starts from; the e-th from `seed` + e.
    """

    steps: int
    ensemble: int
    seed: int

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            UsageError: one is out of range.
        """
        if min(self.steps, self.ensemble) < 1:
            raise UsageError(f"marigold needs at least 1 step and 1 prediction, not {self.steps} and {self.ensemble}")

    @classmethod
    def from_config(cls, config: DepthConfig) -> MarigoldSettings:
        """Return the settings in force."""
        return cls(steps=config.marigold_steps, ensemble=config.marigold_ensemble, seed=config.seed)


class Marigold(TorchDepthBackend):
    """Marigold: affine-invariant depth in [0, 1], larger = farther.

    Args:
        spec: what it gives.
        pipe: `MarigoldDepthPipeline`, in the precision to compute in.
        device: of torch.
        precision: what the pipeline computes in.
        settings: what it alone can be told.
        files: that it was read from.
    """

    def __init__(
        self,
        spec: DepthSpec,
        *,
        pipe: Any,
        device: str,
        precision: NetworkPrecision,
        settings: MarigoldSettings,
        files: Sequence[Path] = (),
    ) -> None:
        """Move the pipeline to the device."""
        super().__init__(spec, device=device, precision=precision, files=files)
        # In float16 the pipeline itself is; in bfloat16 it could not resize on a CPU.
        self.autocasts = precision != "float16"
        pipe.set_progress_bar_config(disable=True)
        self.pipe = pipe.to(self.device)
        self.settings = settings

    def prepare(self, image: NDArray[np.uint8]) -> torch.Tensor:
        """Return the image as it is, in [0, 1]: the pipeline resizes by itself."""
        return to_unit_tensor(image)

    def infer(self, batch: torch.Tensor) -> torch.Tensor:
        """Return the maps of a batch. The noise is each image's own, from the CPU: the same on any device."""
        if self.settings.ensemble == 1:
            return self._run(batch)
        # Merging aligns the predictions with an optimiser that turns a last bit into a visible difference, and a last
        # bit can depend on the size of the batch.
        return torch.cat([self._run(batch[index : index + 1]) for index in range(len(batch))])

    def _run(self, batch: torch.Tensor) -> torch.Tensor:
        generators = [
            torch.Generator("cpu").manual_seed(self.settings.seed + member)
            for _ in range(len(batch))
            for member in range(self.settings.ensemble)
        ]
        result = self.pipe(
            batch,
            num_inference_steps=self.settings.steps,
            ensemble_size=self.settings.ensemble,
            processing_resolution=self.pipe.default_processing_resolution or PROCESSING_RESOLUTION,
            match_input_resolution=False,
            batch_size=len(generators),  # All at once: a scheduler that draws noise takes one generator an item.
            generator=generators,
            output_type="pt",
        )
        return result.prediction[:, 0]


def load_marigold(spec: DepthSpec, *, config: DepthConfig, device: str, precision: NetworkPrecision) -> Marigold:
    """Load Marigold; arguments and errors are those of `base.LoadDepth`."""
    settings = MarigoldSettings.from_config(config)
    require_pretrained(spec, weights=config.weights)
    try:
        from diffusers import MarigoldDepthPipeline
    except (ImportError, RuntimeError) as error:  # diffusers wraps a missing transformers in a RuntimeError.
        raise missing_package(spec, ImportError(str(error))) from error

    def load(source: str, local: bool) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # Newer versions call it dtype, and take both until 1.0.
            pipe = MarigoldDepthPipeline.from_pretrained(
                source,
                local_files_only=local,
                use_safetensors=True,
                torch_dtype=torch.float16 if precision == "float16" else torch.float32,
            )
        kind = pipe.config.prediction_type
        if kind not in pipe.supported_prediction_types:
            raise WeightsError(f"{source} is no Marigold depth pipeline: its prediction_type is {kind}")
        return pipe

    pipe = load_pretrained(load, spec, weights=config.weights)
    direction = "disparity" if pipe.config.prediction_type == "disparity" else spec.direction
    spec = loaded_spec(spec, config.weights, direction=direction, kind="MarigoldDepthPipeline")
    files = pretrained_files(spec, config.weights)
    return Marigold(spec, pipe=pipe, device=device, precision=precision, settings=settings, files=files)
