"""The public names and their signatures: what Semantic Versioning speaks of."""

from __future__ import annotations

import inspect
import subprocess
import sys

import cuts3d_cli

PUBLIC = [
    "Config",
    "Cut",
    "Cuts3dError",
    "DepthMissingError",
    "Detector",
    "FileError",
    "HubUnreachableError",
    "Instance",
    "PRESETS",
    "SampleError",
    "Segmentation",
    "Segmenter",
    "SettingError",
    "ShardError",
    "UsageError",
    "WeightsError",
    "__version__",
    "coco_dataset",
    "draw",
    "segment",
    "to_coco",
]
CALLS = {
    "segment": (
        "image depth depth_unit larger_is_nearer depth_invalid depth_orientation intrinsics confidence preset device"
        " precision settings",
        "relative False auto auto None True None auto auto",
    ),
    "Segmenter.__init__": ("self preset config device precision settings", "None None auto auto"),
    "Segmenter.__call__": (
        "self image depth depth_unit larger_is_nearer depth_invalid depth_orientation intrinsics confidence",
        "relative False auto auto None True",
    ),
    "Segmenter.batch": (
        "self images depths depth_unit larger_is_nearer depth_invalid depth_orientation intrinsics confidence"
        " batch_size workers errors",
        "None relative False auto auto None True 4 0 raise",
    ),
    "Detector.__init__": ("self checkpoint device precision settings", "auto auto"),
    "Detector.__call__": ("self image", ""),
    "Detector.batch": ("self images batch_size errors", "4 raise"),
    "coco_dataset": ("results image_ids category", "None object"),
    "draw": ("segmentation title notes", "None ()"),
    "to_coco": ("segmentation image_id category_id first_id", "1 1"),
}
"""Function -> names of its parameters, and the defaults of those that have one (None of `depth` left out)."""
FIELDS = {
    "Segmentation": "image masks boxes scores confidence classes depth importance cuts stopped title seconds",
    "Instance": "mask box score area confidence class_id",
    "Cut": "eigenvector bipartition instance source sink outcome mask number",
}


def test_the_public_names_are_these():
    assert sorted(cuts3d_cli.__all__) == sorted(PUBLIC)
    for name in PUBLIC:
        assert getattr(cuts3d_cli, name) is not None
    assert set(PUBLIC) <= set(dir(cuts3d_cli))


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(cuts3d_cli, "segmentize")


def test_the_signatures_are_these():
    for name, (parameters, defaults) in CALLS.items():
        owner, _, method = name.partition(".")
        function = getattr(cuts3d_cli, owner)
        signature = inspect.signature(getattr(function, method) if method else function)
        assert list(signature.parameters) == parameters.split(), name
        given = [str(item.default) for item in signature.parameters.values() if item.default is not item.empty]
        assert given == (["None"] if "depth" in signature.parameters else []) + defaults.split(), name
    for name, fields in FIELDS.items():
        assert [item.name for item in getattr(cuts3d_cli, name).__dataclass_fields__.values()] == fields.split()


def test_public_errors_have_one_base():
    for name in PUBLIC:
        if name.endswith("Error"):
            assert issubclass(getattr(cuts3d_cli, name), cuts3d_cli.Cuts3dError)


def test_importing_the_package_imports_no_library():
    code = (
        "import sys; before = set(sys.modules); import cuts3d_cli; "
        "print([name for name in set(sys.modules) - before if not name.startswith('cuts3d_cli')"
        " and name.split('.')[0] not in sys.stdlib_module_names])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
