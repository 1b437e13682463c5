"""The detector: its data, augmentation, losses, model, training and inference, on detectron2."""

import warnings

FINAL_WEIGHTS = "model-final.safetensors"
"""The final weights, in the folder of a training."""
BEST_WEIGHTS = "model-best.safetensors"
"""The weights that an evaluation while training found best, in the same folder."""
CHECKPOINTS = "checkpoint-*.pth"
"""Pattern of the checkpoints there."""
METRICS = "metrics.jsonl"
SAMPLES = "samples.png"
CARD, READABLE_CARD = "model-card.json", "model-card.md"
NONFINITE = "nonfinite-*.pth"
"""Pattern of batches whose loss was no number."""
WRITTEN = (
    *(CHECKPOINTS, FINAL_WEIGHTS, BEST_WEIGHTS, METRICS, SAMPLES, CARD, READABLE_CARD, NONFINITE),
    "events.out.tfevents.*",  # TensorBoard's
)
"""Patterns of what a training writes into its folder. Beside them lie digests, and damaged files under other names."""

# detectron2 0.6 uses functions that torch has deprecated since; users cannot do anything about it.
warnings.filterwarnings("ignore", message=r"`torch\.jit\.script` is deprecated", category=FutureWarning)
warnings.filterwarnings("ignore", message=r"torch\.meshgrid: in an upcoming release", category=UserWarning)
warnings.filterwarnings("ignore", message=r"`torch\.jit\.script(_method)?` is not supported", category=Warning)
# The newer name has another meaning, for now.
warnings.filterwarnings("ignore", message=r"`broadcast_buffers` is deprecated", category=FutureWarning)
