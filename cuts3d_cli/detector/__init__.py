"""The detector: its data, augmentation, losses, model, training and inference, on detectron2."""

import warnings

FINAL_WEIGHTS = "model-final.safetensors"
"""What training ends with, in the folder of a run."""
METRICS = "metrics.jsonl"
SAMPLES = "samples.png"

# detectron2 0.6 uses what torch has renamed since; nothing that a user could do about it.
warnings.filterwarnings("ignore", message=r"`torch\.jit\.script` is deprecated", category=FutureWarning)
warnings.filterwarnings("ignore", message=r"torch\.meshgrid: in an upcoming release", category=UserWarning)
warnings.filterwarnings("ignore", message=r"`torch\.jit\.script(_method)?` is not supported", category=Warning)
