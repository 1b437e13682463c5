"""The configuration: sections with every default, presets, and which value of a field is in force."""

from cuts3d_cli.config.presets import PAPER, PRESET_HELP, PRESETS
from cuts3d_cli.config.resolving import CONFIG_FILE, resolve
from cuts3d_cli.config.sections import (
    PYRAMID_LEVELS,
    ConfidenceConfig,
    Config,
    DepthConfig,
    EvalConfig,
    FeaturesConfig,
    IfExists,
    Method,
    PackConfig,
    PredictConfig,
    PseudoConfig,
    RunConfig,
    SelfTrainConfig,
    TrainConfig,
    as_dict,
    output_dict,
    section_fields,
)

__all__ = [
    "CONFIG_FILE",
    "PAPER",
    "PRESETS",
    "PRESET_HELP",
    "PYRAMID_LEVELS",
    "ConfidenceConfig",
    "Config",
    "DepthConfig",
    "EvalConfig",
    "FeaturesConfig",
    "IfExists",
    "Method",
    "PackConfig",
    "PredictConfig",
    "PseudoConfig",
    "RunConfig",
    "SelfTrainConfig",
    "TrainConfig",
    "as_dict",
    "output_dict",
    "resolve",
    "section_fields",
]
