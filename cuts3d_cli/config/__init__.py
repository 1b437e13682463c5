"""The configuration: sections with every default, presets, and which value of a field is in force."""

from cuts3d_cli.config.cutting import CutSettings, PseudoConfig, for_backbone, in_2d
from cuts3d_cli.config.fields import Section, as_dict, output_dict, section_fields, words_of
from cuts3d_cli.config.presets import PAPER, PRESET_HELP, PRESETS, default_preset
from cuts3d_cli.config.resolving import CONFIG_FILE, names_preset, resolve, resolve_recorded
from cuts3d_cli.config.sections import (
    MAX_IMAGE_PIXELS,
    ConfidenceConfig,
    Config,
    DepthConfig,
    DepthOrientation,
    EvalConfig,
    FeaturesConfig,
    Graphs,
    IfExists,
    PackConfig,
    PredictConfig,
    RunConfig,
    TestSettings,
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
    "CutSettings",
    "DepthConfig",
    "DepthOrientation",
    "EvalConfig",
    "FeaturesConfig",
    "Graphs",
    "IfExists",
    "PackConfig",
    "PredictConfig",
    "PseudoConfig",
    "RunConfig",
    "Section",
    "SelfTrainConfig",
    "TestSettings",
    "TrainConfig",
    "as_dict",
    "default_preset",
    "for_backbone",
    "in_2d",
    "output_dict",
    "recorded_limits",
    "names_preset",
    "resolve",
    "resolve_recorded",
    "section_fields",
    "section_types",
    "words_of",
]
