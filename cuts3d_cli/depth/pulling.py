"""Brings the weights of depth networks to where they are found without the hub: its client's cache, or torch.hub's."""

from __future__ import annotations

import hashlib
import shutil
import urllib.request
from pathlib import Path

from cuts3d_cli.config import DepthConfig
from cuts3d_cli.depth.base import DepthSpec
from cuts3d_cli.depth.catalogue import check_available
from cuts3d_cli.depth.pretrained import pretrained_files
from cuts3d_cli.errors import Command, HubUnreachableError, Setting, WeightsError
from cuts3d_cli.files import atomic_file, explained
from cuts3d_cli.weights.hub import hub_endpoint, hub_offline
from cuts3d_cli.weights.kinds import weights_file
from cuts3d_cli.weights.sources import URL_TIMEOUT_SECONDS, file_sha256
from cuts3d_cli.wording import Say, cause

_WANTED = ("*.json", "*.safetensors", "*.txt")
"""Files of a repository that are loaded: settings, tokens of Marigold's text, and weights that are no pickles."""


def pull_depth(spec: DepthSpec, *, source: Path | None, say: Say) -> Path:
    """Bring the weights of a depth network to where it finds them by itself.

    Args:
        spec: of the catalogue, or of an "hf:" name.
        source: a folder of `save_pretrained`, or for MiDaS its file; None fetches them.
        say: prints a status line.

    Returns:
        The folder in the cache of the hub's client; of MiDaS the file in that of torch.hub.

    Raises:
        WeightsError: the source is none of this network, or has to be named where the network is used.
        HubUnreachableError: the weights are not here, and the hub does not answer.
    """
    found = spec.find(spec) if spec.find is not None else None
    if found is not None:
        say(f"weights of {spec.name} are here already")
        return found
    if spec.folder is not None or not is_kept(spec):
        own = (Setting("depth.backend", spec.name), *(() if spec.folder else (Setting("depth.weights", "FILE"),)))
        raise WeightsError(f"{spec.name} is kept in no cache: give it to ", Command("depth", settings=own))
    if spec.url is not None:
        return _pull_file(spec, spec.url, source=source, say=say)
    return _copy_folder(spec, source, say=say) if source is not None else _fetch_folder(spec, say=say)


def is_kept(spec: DepthSpec) -> bool:
    """Tell whether the weights of a network have a cache that they can be pulled into."""
    return spec.from_hub or spec.url is not None


def _fetch_folder(spec: DepthSpec, *, say: Say) -> Path:
    """Fetch the files of a repository that are loaded into the cache of the hub's client."""
    from huggingface_hub import snapshot_download

    check_available(DepthConfig(backend=spec.name))  # a hub out of reach, and packages that are missing
    say(f"fetching weights of {spec.name} from the model hub: {spec.model}")
    try:
        return Path(snapshot_download(spec.model, allow_patterns=list(_WANTED), endpoint=hub_endpoint()))
    except Exception as error:  # the client raises types of its own, of its HTTP library and of the system
        reason = f"weights of {spec.name} cannot be fetched from {spec.model}: {cause(error)}: "
        raise WeightsError(reason, *spec.weights_hint) from error


def _copy_folder(spec: DepthSpec, source: Path, *, say: Say) -> Path:
    """Copy a folder into the cache of the hub's client, in the layout that its documentation describes.

    Its revision is made of the content, and "main" points to it: nothing of the name was there before.
    """
    from huggingface_hub.constants import HF_HUB_CACHE

    if not source.is_dir():
        raise WeightsError(f"{source} is no folder, which the cache of the hub keeps: ", *spec.weights_hint)
    if spec.extra == "depth":
        weights_file(source)  # that it holds weights
    files = pretrained_files(spec, source)
    if not any(file.name in ("config.json", "model_index.json") for file in files):
        raise WeightsError(f"{source} has no config.json: ", *spec.weights_hint)
    digest = hashlib.sha1(usedforsecurity=False)
    for file in files:
        digest.update(f"{file.relative_to(source).as_posix()} {file_sha256(file)}\n".encode())
    repo = Path(HF_HUB_CACHE) / f"models--{spec.model.replace('/', '--')}"
    snapshot, revision = repo / "snapshots" / digest.hexdigest(), repo / "refs" / "main"
    with explained(repo):
        for file in files:
            target = snapshot / file.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
        revision.parent.mkdir(parents=True, exist_ok=True)
        revision.write_text(digest.hexdigest(), encoding="ascii")
    say(f"{source} could not be checked, since no digest of these weights is known: it is checked when it is loaded")
    return snapshot


def _pull_file(spec: DepthSpec, url: str, *, source: Path | None, say: Say) -> Path:
    """Bring the file of a network into the cache of torch.hub."""
    import torch

    target = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    target.parent.mkdir(parents=True, exist_ok=True)
    if source is not None:
        if not source.is_file():
            raise WeightsError(f"{source} is no file: ", *spec.weights_hint)
        with atomic_file(target) as file, source.open("rb") as given:
            shutil.copyfileobj(given, file)
        sha256 = file_sha256(target)
        say(f"{source} could not be checked, since no digest of these weights is known: its sha256 is {sha256}")
        return target
    if variable := hub_offline():
        problem = f"weights of {spec.name} are not here and downloads are switched off by {variable}: "
        raise HubUnreachableError(problem, *spec.weights_hint)
    say(f"fetching weights of {spec.name} from {url}")
    try:
        with urllib.request.urlopen(url, timeout=URL_TIMEOUT_SECONDS) as answer, atomic_file(target) as file:
            shutil.copyfileobj(answer, file)
    except OSError as error:
        problem = f"weights of {spec.name} cannot be fetched ({cause(error)}): "
        raise HubUnreachableError(problem, *spec.weights_hint) from error
    return target
