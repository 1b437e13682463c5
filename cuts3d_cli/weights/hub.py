"""The model hub (huggingface.co): whether it answers, found out within seconds, and single files from it.

Other servers that weights lie on are asked likewise.
"""

from __future__ import annotations

import functools
import os
import re
import threading
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from cuts3d_cli.errors import HubUnreachableError, Parts, WeightsError
from cuts3d_cli.wording import cause

PROBE_SECONDS = 5.0
"""How long the hub may take to answer before it counts as unreachable. Not in the paper."""
OFFLINE_VARIABLES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
"""Variables that switch the hub's client off, in its own order: the first one that is not empty decides."""
TRUE_VALUES = frozenset({"1", "ON", "YES", "TRUE"})
"""Values that the hub's client takes as true, in upper or lower case."""
_GATEWAY_ERRORS = frozenset({407, 502, 503, 504})


class HubFileMissingError(WeightsError):
    """A repository of the hub has no file of that name."""


def hub_offline() -> str | None:
    """Return the environment variable that switches the hub off, or None.

    Returns:
        `HF_HUB_OFFLINE` or `TRANSFORMERS_OFFLINE`, by the rule of the hub's own client.
    """
    for name in OFFLINE_VARIABLES:
        value = os.environ.get(name)
        if value:
            return name if value.upper() in TRUE_VALUES else None
    return None


def hub_endpoint() -> str:
    """Return the address of the hub: $HF_ENDPOINT, else https://huggingface.co, with no slash at its end."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def hub_problem() -> str | None:
    """Return why nothing can be fetched from the hub, in a few words, or None if it answers.

    Takes `PROBE_SECONDS` at most. The network is asked once per process and endpoint.

    Returns:
        For instance "the hub is switched off by HF_HUB_OFFLINE" or "huggingface.co cannot be reached (no
        answer within 5 s)".
    """
    variable = hub_offline()
    if variable:
        return f"the hub is switched off by {variable}"
    endpoint = hub_endpoint()
    if not endpoint.lower().startswith(("http://", "https://")):
        return f"HF_ENDPOINT is {endpoint!r}, which is no address of a hub: write it as https://{endpoint}"
    return _unreachable(endpoint, reason=_probe(endpoint))


def server_problem(url: str) -> str | None:
    """Return why nothing can be fetched from an address, in a few words, or None if its server answers.

    Takes `PROBE_SECONDS` at most. A server is asked once per process; whether downloads are switched off is not looked
    at.

    Args:
        url: of a file; any answer of its server will do.
    """
    parts = urlsplit(url)
    if not parts.netloc:  # a file of this machine
        return None
    endpoint = f"{parts.scheme}://{parts.netloc}"
    return _unreachable(endpoint, reason=_probe(endpoint, of_hub=False))


def proxy_of(url: str) -> str | None:
    """Return the proxy that an address is asked through, HOST:PORT without its user and password; None: none.

    Args:
        url: of any file.
    """
    address = _proxy_address(url)
    return address and address.split("://")[-1].rpartition("@")[2].rstrip("/")


def _proxy_address(url: str) -> str | None:
    parts = urlsplit(url)
    if urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    proxies = urllib.request.getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")


def _unreachable(endpoint: str, *, reason: str | None) -> str | None:
    """Return in a few words that a server is out of reach, and through which proxy; None where nothing is wrong."""
    if reason is None:
        return None
    address = _proxy_address(endpoint)
    through = "" if address is None else f" through the proxy {proxy_of(endpoint)}"
    if address is not None and "@" in address:  # its user and password
        reason = reason.replace(f"{address.split('://')[-1].rpartition('@')[0]}@", "")
    return f"{urlsplit(endpoint).hostname or endpoint} cannot be reached{through} ({reason})"


def require_hub(what: str, way_out: Parts) -> None:
    """Raise at once if the hub is switched off or does not answer.

    Args:
        what: what is needed, a plural noun phrase such as "weights of dino-vitb8".
        way_out: what the user can do instead, such as to give a file.

    Raises:
        HubUnreachableError: with one line, "WHAT are not in the cache and REASON: WAY_OUT".
    """
    problem = hub_problem()
    if problem:
        raise HubUnreachableError(f"{what} are not in the cache and {problem}: ", *way_out)


def hub_cached(repo: str, filename: str) -> Path | None:
    """Return one file of a hub repository if the hub client's local cache has it; the hub is not asked.

    Args:
        repo: owner/name.
        filename: the file's path inside the repository.
    """
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(repo, filename)
    return Path(path) if isinstance(path, str) else None


def hub_file(repo: str, filename: str, *, what: str, way_out: Parts) -> Path:
    """Return one file of a hub repository, from the hub client's local cache or else fetched into it.

    Args:
        repo: owner/name.
        filename: the file's path inside the repository.
        what: what is needed, a plural noun phrase; only for the error.
        way_out: what the user can do instead; only for the error.

    Returns:
        A path inside the hub client's cache. Its content is not checked here: see `hub_sha256`.

    Raises:
        HubUnreachableError: the file is not cached, and the hub is switched off or does not answer.
        HubFileMissingError: the repository has no such file, or had none when it was last asked.
        WeightsError: the hub answers but does not give the file (unknown, gated, broken transfer, disk full).
    """
    from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    missing = f"{what} cannot be fetched: {repo} has no {filename}: "
    try:
        if try_to_load_from_cache(repo, filename) is _CACHED_NO_EXIST:
            raise HubFileMissingError(missing, *way_out)
        return Path(hf_hub_download(repo, filename, local_files_only=True))
    except LocalEntryNotFoundError:
        require_hub(what, way_out)
    except ValueError as error:  # How the client says that a name is none that a repository can have.
        raise WeightsError(f"{what} cannot be fetched from {repo}: {cause(error)}: ", *way_out) from error
    try:
        return Path(hf_hub_download(repo, filename, endpoint=hub_endpoint()))
    except Exception as error:  # The client raises types of its own, of its HTTP library and of the system.
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            raise HubFileMissingError(missing, *way_out) from error
        raise WeightsError(f"{what} cannot be fetched from {repo}: {cause(error)}: ", *way_out) from error


def hub_sha256(path: Path) -> str | None:
    """Return the sha256 that the server declared for a file of the hub client's cache.

    The client names a cached blob by the server's etag, which for large files is the sha256 of the content.

    Args:
        path: what `hub_file` returned.

    Returns:
        64 hexadecimal digits, or None where the server declared another kind of etag.
    """
    name = path.resolve().name
    return name if re.fullmatch(r"[0-9a-f]{64}", name) else None


@functools.cache
def _probe(endpoint: str, *, of_hub: bool = True) -> str | None:
    """Return why `endpoint` does not answer, or None; `of_hub`: as the hub's client asks, else as downloads do."""
    ask = _ask if of_hub else _ask_server
    # In a daemon thread, because a hanging name look-up obeys no socket timeout.
    outcome: list[str | None] = []
    thread = threading.Thread(target=lambda: outcome.append(ask(endpoint)), name="hub-probe", daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return outcome[0] if outcome else f"no answer within {PROBE_SECONDS:g} s"


def _ask(endpoint: str) -> str | None:
    # The client's own session, so that its proxies and certificates are the ones that are tried.
    from huggingface_hub.utils import get_session

    try:
        status = get_session().head(endpoint, timeout=PROBE_SECONDS).status_code
    except Exception as error:  # Its HTTP library's errors share no base with the system's. Any means "no".
        return cause(error)
    # Any answer of the server itself will do; these are a proxy's word that it is out of reach.
    return f"HTTP {status}" if status in _GATEWAY_ERRORS else None


def _ask_server(endpoint: str) -> str | None:
    try:
        with urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=PROBE_SECONDS):
            return None
    except urllib.error.HTTPError as error:
        return f"HTTP {error.code}" if error.code in _GATEWAY_ERRORS else None
    except Exception as error:  # of its HTTP library and of the system. Any means "no".
        reason = getattr(error, "reason", None)  # what is behind a failed connection
        return cause(reason if isinstance(reason, Exception) else error)
