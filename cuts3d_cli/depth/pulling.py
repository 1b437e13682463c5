"""Brings the weights of depth networks to where they are found without the hub: its client's cache, or torch.hub's."""

from __future__ import annotations

import hashlib
import shutil
import urllib.request
from pathlib import Path

from cuts3d_cli.config import DepthConfig
from cuts3d_cli.depth.base import DepthSpec
from cuts3d_cli.depth.catalogue import check_loads, check_packages
from cuts3d_cli.depth.pretrained import pretrained_files
from cuts3d_cli.errors import (
    Command,
    HubUnreachableError,
    Message,
    Setting,
    SettingError,
    WeightsError,
    without_full_stop,
)
from cuts3d_cli.files import atomic_file, explained
from cuts3d_cli.weights.hub import hub_endpoint, hub_offline, hub_problem, require_hub, server_problem
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
        WeightsError: the source is none of this network, or has to be named where the network is used; nothing has
            been copied.
        HubUnreachableError: the weights are not here, and the hub does not answer.
    """
    if spec.folder is not None or not is_kept(spec):
        own = (Setting("depth.backend", spec.name), *(() if spec.folder else (Setting("depth.weights", "FILE"),)))
        raise WeightsError(f"{spec.name} is kept in no cache: give it to ", Command("depth", settings=own))
    if source is not None:
        return _take_file(spec, source, say=say) if spec.url is not None else _take_folder(spec, source, say=say)
    found = spec.find(spec) if spec.find is not None else None
    if found is not None:
        try:
            _check(spec, found)
        except WeightsError as error:
            say(Message(*without_full_stop(error), ": fetching it again"))
        else:
            say(f"weights of {spec.name} are here already")
            return found
    again = found is not None
    return _fetch_file(spec, spec.url, say=say) if spec.url is not None else _fetch_folder(spec, again=again, say=say)


def is_kept(spec: DepthSpec) -> bool:
    """Tell whether the weights of a network have a cache that they can be pulled into."""
    return spec.from_hub or spec.url is not None


def _check(spec: DepthSpec, source: Path) -> None:
    """Make sure that a network can be loaded from a file or folder, whatever it gives.

    Raises:
        WeightsError: it cannot.
    """
    try:
        check_loads(spec, DepthConfig(backend=spec.name, weights=source))
    except SettingError:  # a network of a type that does not tell what it gives: it is told, so that it loads
        check_loads(spec, DepthConfig(backend=spec.name, weights=source, gives="metres"))


def _fetch_folder(spec: DepthSpec, *, again: bool, say: Say) -> Path:
    """Fetch the files of a repository that are loaded into the cache of the hub's client, `again` those in it, too."""
    from huggingface_hub import snapshot_download

    check_packages(spec)
    if not again:
        require_hub(f"weights of {spec.name}", spec.way_out)
    elif problem := hub_problem():
        raise HubUnreachableError(f"weights of {spec.name} cannot be fetched: {problem}: ", *spec.way_out)
    say(f"fetching weights of {spec.name} from the model hub: {spec.model}")
    try:
        patterns, endpoint = list(_WANTED), hub_endpoint()
        return Path(snapshot_download(spec.model, allow_patterns=patterns, endpoint=endpoint, force_download=again))
    except Exception as error:  # the client raises types of its own, of its HTTP library and of the system
        reason = f"weights of {spec.name} cannot be fetched from {spec.model}: {cause(error)}: "
        raise WeightsError(reason, *spec.way_out) from error


def _take_folder(spec: DepthSpec, source: Path, *, say: Say) -> Path:
    """Copy a folder into the cache of the hub's client, in the layout that its documentation describes.

    Its revision is made of the content, and "main" points to it from then on, whatever was there before.
    """
    from huggingface_hub.constants import HF_HUB_CACHE

    if not source.is_dir():
        raise WeightsError(f"{source} is no folder, which the cache of the hub keeps: ", *spec.way_out)
    if spec.extra == "depth":
        weights_file(source)  # that it holds weights
    _check(spec, source)
    revision = _revision(spec, source)
    repo = Path(HF_HUB_CACHE) / f"models--{spec.model.replace('/', '--')}"
    snapshot, main = repo / "snapshots" / revision, repo / "refs" / "main"
    found = spec.find(spec) if spec.find is not None else None
    if found is not None and _revision(spec, found) == revision:
        say(f"{source} is what is here already")
        return found
    with explained(repo):
        for file in pretrained_files(spec, source):
            target = snapshot / file.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            shutil.copyfile(file, target)
        main.parent.mkdir(parents=True, exist_ok=True)
        main.write_text(revision, encoding="ascii")
    replaced = "" if found is None else f"it takes the place of {found}; "
    say(f"{replaced}{source} could not be checked, since no digest of these weights is known: it fits {spec.name}")
    return snapshot


def _revision(spec: DepthSpec, folder: Path) -> str:
    """Return the name of a revision with the content of a folder, 40 hexadecimal digits."""
    digest = hashlib.sha1(usedforsecurity=False)
    for file in pretrained_files(spec, folder):
        digest.update(f"{file.relative_to(folder).as_posix()} {file_sha256(file)}\n".encode())
    return digest.hexdigest()


def _take_file(spec: DepthSpec, source: Path, *, say: Say) -> Path:
    """Copy the file of a network into the cache of torch.hub, in place of what was there."""
    if not source.is_file():
        raise WeightsError(f"{source} is no file: ", *spec.way_out)
    if source.suffix.lower() == ".onnx":
        own = (Setting("depth.backend", spec.name), Setting("depth.weights", str(source)))
        raise WeightsError(
            f"{source} is kept in no cache, as an ONNX graph: give it to ", Command("depth", settings=own)
        )
    _check(spec, source)
    sha256, found = file_sha256(source), spec.find(spec) if spec.find is not None else None
    if found is not None and file_sha256(found) == sha256:
        say(f"{source} is what is here already")
        return found
    target = _place(str(spec.url))
    with explained(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(target) as file, source.open("rb") as given:
            shutil.copyfileobj(given, file)
    replaced = "" if found is None else f"it takes the place of {found}; "
    unknown = f"{source} could not be checked, since no digest of these weights is known"
    say(f"{replaced}{unknown}: it fits {spec.name}, and its sha256 is {sha256}")
    return target


def _place(url: str) -> Path:
    """Return where torch.hub keeps the file of an address."""
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]


def _fetch_file(spec: DepthSpec, url: str, *, say: Say) -> Path:
    """Fetch the file of a network into the cache of torch.hub."""
    if variable := hub_offline():
        problem = f"weights of {spec.name} are not here and downloads are switched off by {variable}: "
        raise HubUnreachableError(problem, *spec.way_out)
    if unreachable := server_problem(url):
        raise HubUnreachableError(f"weights of {spec.name} are not here and {unreachable}: ", *spec.way_out)
    target = _place(url)
    with explained(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
    say(f"fetching weights of {spec.name} from {url}")
    try:
        with urllib.request.urlopen(url, timeout=URL_TIMEOUT_SECONDS) as answer, atomic_file(target) as file:
            shutil.copyfileobj(answer, file)
    except OSError as error:
        problem = f"weights of {spec.name} cannot be fetched ({cause(error)}): "
        raise HubUnreachableError(problem, *spec.way_out) from error
    return target
