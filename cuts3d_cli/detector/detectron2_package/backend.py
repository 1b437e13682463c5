"""A PEP 517 backend that repackages detectron2 0.6 as pure Python.

PyPI has its sources under another name, without the C++ and CUDA part. A Mask R-CNN and its cascade do not need it:
torchvision has the operators. What has broken since the release of 0.6 is replaced as in `REPLACEMENTS`, and each
changed file says so. pip fetches the archive, with its settings (index, proxy, cache), and checks its hash. The wheel's
bytes depend on nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SOURCE = "pb1-detectron2==0.6"
SHA256 = "5d2e9e51e523ec72f6a31cca04b0a515492e9514b773a3d134cedc0677170b29"
VERSION = "0.6+pyonly.1"
INFO = f"detectron2-{VERSION}.dist-info"
REQUIRES = (
    "Pillow>=7.1",
    "cloudpickle",
    "fvcore>=0.1.5,<0.1.6",
    "hydra-core>=1.1",
    "iopath>=0.1.7",
    "matplotlib",
    "omegaconf>=2.1",
    "pycocotools>=2.0.2",
    "tabulate",
    "tensorboard",
    "termcolor>=1.1",
    "tqdm>4.29.0",
    "yacs>=0.1.8",
)
METADATA = "".join(
    line + "\n"
    for line in [
        "Metadata-Version: 2.1",
        "Name: detectron2",
        f"Version: {VERSION}",
        "Summary: detectron2 0.6 without its compiled part, adapted to current Python, numpy and Pillow",
        "Home-page: https://github.com/facebookresearch/detectron2",
        "License: Apache-2.0",
        "Requires-Python: >=3.8",
        *(f"Requires-Dist: {requirement}" for requirement in REQUIRES),
    ]
)
HEADER = f"# Modified from detectron2 0.6 for version {VERSION}: see the changes in its builder.\n"
NO_EXTENSION = "try:\n    from detectron2 import _C\nexcept ImportError:\n    _C = None\n"
REPLACEMENTS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "layers/deform_conv.py": (("from detectron2 import _C\n", NO_EXTENSION),),
    "layers/roi_align_rotated.py": (("from detectron2 import _C\n", NO_EXTENSION),),
    "layers/rotated_boxes.py": (("from detectron2 import _C\n", NO_EXTENSION),),
    "evaluation/coco_evaluation.py": (
        (
            "from detectron2.evaluation.fast_eval_api import COCOeval_opt\n",
            "try:\n    from detectron2.evaluation.fast_eval_api import COCOeval_opt\n"
            "except ImportError:\n    COCOeval_opt = COCOeval\n",
        ),
    ),
    "data/transforms/transform.py": (("Image.LINEAR", "Image.BILINEAR"),),
    "data/common.py": (("sample(self._fallback_candidates,", "sample(list(self._fallback_candidates),"),),
    "model_zoo/model_zoo.py": (
        ("import pkg_resources\n", ""),
        (
            "pkg_resources.resource_filename(\n"
            '        "detectron2.model_zoo", os.path.join("configs", config_path)\n    )',
            'os.path.join(os.path.dirname(os.path.abspath(__file__)), "configs", config_path)',
        ),
    ),
    "export/__init__.py": (
        (
            "from .api import *\nfrom .flatten import TracingAdapter\n"
            "from .torchscript import scripting_with_instances, dump_torchscript_IR\n",
            "try:\n    from .api import *\nexcept ImportError:  # caffe2 is gone\n    pass\n"
            "from .flatten import TracingAdapter\n"
            "from .torchscript import scripting_with_instances, dump_torchscript_IR\n",
        ),
    ),
}
"""Path in the package -> pairs of old and new text."""
ALIASES = (
    "data/build.py",
    "data/datasets/pascal_voc.py",
    "evaluation/pascal_voc_evaluation.py",
    "evaluation/sem_seg_evaluation.py",
    "structures/masks.py",
    "utils/video_visualizer.py",
    "utils/visualizer.py",
)
"""Files with np.int, np.float, np.bool or np.str, which numpy has removed."""
STUB = """
import setuptools.dist as dist, sys, types

made = dist.Distribution.__init__

def without_requirements(self, attrs=None):
    dropped = ("install_requires", "extras_require", "ext_modules")
    made(self, {key: value for key, value in (attrs or {}).items() if key not in dropped})

dist.Distribution.__init__ = without_requirements
__version__ = "2.0"
nothing = lambda *arguments, **named: None
version = types.SimpleNamespace(hip=None)
cuda = types.SimpleNamespace(is_available=lambda: False)
extension = types.ModuleType("torch.utils.cpp_extension")
extension.CUDA_HOME = extension.ROCM_HOME = None
extension.CppExtension = extension.CUDAExtension = nothing
extension.BuildExtension = None
utils = types.ModuleType("torch.utils")
utils.cpp_extension = extension
sys.modules.update({"torch.utils": utils, "torch.utils.cpp_extension": extension})
"""
"""Replaces torch while pip asks the archive's setup.py for name and version, and drops the requirements: one of them
is an address, which pip refuses."""


class BuildError(Exception):
    """The sources are not those that this builder was written for."""


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    """Return no requirements beyond those of pyproject.toml (PEP 517)."""
    return []


def prepare_metadata_for_build_wheel(metadata_directory: str, config_settings: Any = None) -> str:
    """Write the metadata, without fetching anything (PEP 517). Returns the name of its folder."""
    folder = Path(metadata_directory, INFO)
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(METADATA, encoding="utf-8")
    return INFO


def build_wheel(wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None) -> str:
    """Fetch the sources, adapt them, write the wheel (PEP 517). Returns the name of its file."""
    name = f"detectron2-{VERSION}-py3-none-any.whl"
    Path(wheel_directory, name).write_bytes(wheel(package_files(fetch())))
    return name


def fetch() -> bytes:
    """Download the source archive with pip.

    Raises:
        BuildError: pip failed, or the archive is another one.
    """
    with tempfile.TemporaryDirectory() as folder:
        stub = Path(folder, "stub", "torch")
        stub.mkdir(parents=True)
        (stub / "__init__.py").write_text(STUB, encoding="utf-8")
        wanted = Path(folder, "requirements.txt")
        wanted.write_text(f"{SOURCE} --hash=sha256:{SHA256}\n", encoding="utf-8")
        # A nested build must not see the settings of the outer one.
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("_PYPROJECT_HOOKS_", "PEP517_"))}
        paths = [str(stub.parent), *filter(None, [kept.get("PYTHONPATH")])]
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--no-binary", ":all:", "--no-build-isolation", "--require-hashes", "-r", str(wanted), "-d", folder]
        done = subprocess.run(
            command, env={**kept, "PYTHONPATH": os.pathsep.join(paths)}, capture_output=True, text=True, check=False
        )
        archives = list(Path(folder).glob("*.tar.gz"))
        if done.returncode != 0 or len(archives) != 1:
            raise BuildError(f"{SOURCE} could not be fetched from the package index:\n{done.stderr.strip()}")
        data = archives[0].read_bytes()
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise BuildError(f"{SOURCE} has another sha256 than {SHA256}")
    return data


def package_files(archive: bytes) -> dict[str, bytes]:
    """Read the files of the package and adapt them.

    Args:
        archive: the source archive, a tar.gz.

    Returns:
        Name in the wheel -> content.

    Raises:
        BuildError: a text to be replaced is missing.
    """
    files: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            path = member.name.partition("/")[2]
            source = tar.extractfile(member) if member.isfile() else None
            if source is None:
                continue
            if path.startswith("detectron2/") and path.endswith((".py", ".yaml")):
                files[path] = source.read()
            elif path == "LICENSE":
                files[f"{INFO}/LICENSE"] = source.read()
    for name in sorted({*REPLACEMENTS, *ALIASES}):
        path = f"detectron2/{name}"
        if path not in files:
            raise BuildError(f"the source archive has no {path}")
        files[path] = (HEADER + adapted(files[path].decode("utf-8"), name)).encode("utf-8")
    return files


def adapted(text: str, name: str) -> str:
    """Apply the replacements to one file.

    Args:
        text: of the file.
        name: path in the package.

    Raises:
        BuildError: a text to be replaced is missing.
    """
    for old, new in REPLACEMENTS.get(name, ()):
        if old not in text:
            raise BuildError(f"{name} does not contain {old!r}")
        text = text.replace(old, new)
    if name in ALIASES:
        text, count = re.subn(r"\bnp\.(int|float|bool|str)\b", r"\1", text)
        if not count:
            raise BuildError(f"{name} has none of numpy's old aliases")
    return text


def wheel(files: Mapping[str, bytes]) -> bytes:
    """Build a wheel of these files: the same bytes for the same files."""
    tag = "Wheel-Version: 1.0\nGenerator: cuts3d\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    content = {**files, f"{INFO}/METADATA": METADATA.encode(), f"{INFO}/WHEEL": tag.encode()}
    record = [f"{name},sha256={_digest(content[name])},{len(content[name])}\n" for name in sorted(content)]
    content[f"{INFO}/RECORD"] = "".join([*record, f"{INFO}/RECORD,,\n"]).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in sorted(content, key=lambda name: (name.startswith(INFO), name)):
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            entry.create_system = 3
            archive.writestr(entry, content[name])  # stored: what deflate writes depends on the version of zlib
    return buffer.getvalue()


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode("ascii")
