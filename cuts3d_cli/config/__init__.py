"""The configuration: sections with every default, presets, and which value of a field is in force."""

from cuts3d_cli.config.fields import Section, as_dict, output_dict, section_fields
from cuts3d_cli.config.presets import PAPER, PRESET_HELP, PRESETS
from cuts3d_cli.config.resolving import CONFIG_FILE, resolve
from cuts3d_cli.config.sections import (
    MAX_IMAGE_PIXELS,
    ConfidenceConfig,
    Config,
    DepthConfig,
    EvalConfig,
    FeaturesConfig,
    Graphs,
    IfExists,
    Method,
    PackConfig,
    PredictConfig,
    PseudoConfig,
    RunConfig,
    recorded_limits,
    section_types,
)
from cuts3d_cli.config.training import PYRAMID_LEVELS, SelfTrainConfig, TrainConfig

__all__ = [
    "CONFIG_FILE",
    "MAX_IMAGE_PIXELS",
    "PAPER",
    "PRESETS",
    "PRESET_HELP",
    "PYRAMID_LEVELS",
    "ConfidenceConfig",
    "Config",
    "DepthConfig",
    "EvalConfig",
    "FeaturesConfig",
    "Graphs",
    "IfExists",
    "Method",
    "PackConfig",
    "PredictConfig",
    "PseudoConfig",
    "RunConfig",
    "Section",
    "SelfTrainConfig",
    "TrainConfig",
    "as_dict",
    "output_dict",
    "recorded_limits",
    "resolve",
    "section_fields",
    "section_types",
]
