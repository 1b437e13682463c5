"""Marigold, one of the paper's four depth sources (Table 7), through diffusers."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cuts3d_cli.depth.base import DepthSpec
from cuts3d_cli.depth.pretrained import load_pretrained, missing_package
from cuts3d_cli.depth.torch_network import TorchDepthBackend, to_unit_tensor
from cuts3d_cli.errors import WeightsError

PROCESSING_RESOLUTION = 768
"""Longer side that the network sees, pixels, where the pipeline's own configuration does not say."""


class Marigold(TorchDepthBackend):
    """Marigold: affine-invariant depth in [0, 1], larger = farther."""

    def __init__(self, spec: DepthSpec, *, pipe: Any, device: str, seed: int, steps: int, ensemble: int) -> None:
        """Take what was loaded.

        Args:
            spec: what it gives.
            pipe: `MarigoldDepthPipeline`, in the precision to compute in.
            device: of torch.
            seed: of the noise that the first prediction of every image starts from; the e-th from `seed` + e.
            steps: denoising steps.
            ensemble: predictions to merge.
        """
        super().__init__(spec, device=device, half=False)  # The pipeline itself is in half precision.
        pipe.set_progress_bar_config(disable=True)
        self.pipe = pipe.to(self.device)
        self.seed = seed
        self.steps = steps
        self.ensemble = ensemble

    def prepare(self, image: NDArray[np.uint8]) -> torch.Tensor:
        """See `TorchDepthBackend.prepare`; the pipeline resizes by itself."""
        return to_unit_tensor(image)

    def infer(self, batch: torch.Tensor) -> torch.Tensor:
        """See `TorchDepthBackend.infer`. The noise is each image's own, from the CPU: the same on any device."""
        if self.ensemble == 1:
            return self._run(batch)
        # Merging aligns the predictions with an optimiser that turns a last bit into a visible difference, and a last
        # bit can depend on the size of the batch.
        return torch.cat([self._run(batch[index : index + 1]) for index in range(len(batch))])

    def _run(self, batch: torch.Tensor) -> torch.Tensor:
        generators = [
            torch.Generator("cpu").manual_seed(self.seed + member)
            for _ in range(len(batch))
            for member in range(self.ensemble)
        ]
        result = self.pipe(
            batch,
            num_inference_steps=self.steps,
            ensemble_size=self.ensemble,
            processing_resolution=self.pipe.default_processing_resolution or PROCESSING_RESOLUTION,
            match_input_resolution=False,
            batch_size=len(generators),  # All at once: a scheduler that draws noise takes one generator an item.
            generator=generators,
            output_type="pt",
        )
        return result.prediction[:, 0]


def load_marigold(
    spec: DepthSpec, *, weights: Path | None, device: str, half: bool, seed: int, steps: int, ensemble: int
) -> Marigold:
    """Load Marigold; see `catalogue.load_depth` for the arguments and errors."""
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
                torch_dtype=torch.float16 if half else torch.float32,
            )
        kind = pipe.config.prediction_type
        if kind not in pipe.supported_prediction_types:
            raise WeightsError(f"{source} is no Marigold depth pipeline: its prediction_type is {kind}")
        return pipe

    pipe = load_pretrained(load, spec, weights=weights)
    if pipe.config.prediction_type == "disparity":
        spec = replace(spec, direction="disparity")
    return Marigold(
        spec,
        pipe=pipe,
        device=device,
        seed=seed,
        steps=steps,
        ensemble=ensemble,
    )
