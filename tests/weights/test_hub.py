from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cuts3d_cli.errors import HubUnreachableError, WeightsError
from cuts3d_cli.weights import hub

WHAT, WAY_OUT = "weights of tiny", "pass --weights FILE"
pytestmark = pytest.mark.usefixtures("cache")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("value", ["1", "on", "YES", "true"])
@pytest.mark.parametrize("name", hub.OFFLINE_VARIABLES)
def test_offline_variables(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    assert hub.hub_offline() == name
    with pytest.raises(HubUnreachableError) as caught:
        hub.require_hub(WHAT, WAY_OUT)
    assert str(caught.value) == f"{WHAT} are not in the cache and the hub is switched off by {name}: {WAY_OUT}"


@pytest.mark.parametrize("value", ["", "0", "no", "off", "2"])
def test_other_values_leave_the_hub_on(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    assert hub.hub_offline() is None


def test_the_first_variable_wins_as_in_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "1")
    assert hub.hub_offline() is None


def test_true_values_are_the_clients() -> None:
    from huggingface_hub import constants

    assert constants.ENV_VARS_TRUE_VALUES == hub.TRUE_VALUES


def test_a_closed_port_is_unreachable_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free_port()}/")
    with pytest.raises(HubUnreachableError, match=r"127\.0\.0\.1 cannot be reached \(.+\): pass --weights") as caught:
        hub.require_hub(WHAT, WAY_OUT)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ask", [hub.hub_problem, lambda: hub.server_problem("https://files.invalid/a/net.pth")])
def test_a_proxy_that_does_not_answer_is_named_without_its_password(
    monkeypatch: pytest.MonkeyPatch, ask: Callable[[], str | None]
) -> None:
    for name in ("NO_PROXY", "no_proxy", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    port = free_port()
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:secret@127.0.0.1:{port}/")
    problem = ask()
    assert problem is not None
    assert f" cannot be reached through the proxy 127.0.0.1:{port} (" in problem
    assert "secret" not in problem


def test_no_proxy_is_named_where_none_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.invalid:3128")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert hub.proxy_of("http://127.0.0.1:9/x") is None
    assert hub.proxy_of("http://other.invalid/x") == "proxy.invalid:3128"
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    assert "proxy" not in str(hub.hub_problem())


def test_an_endpoint_without_its_scheme_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "hub.example.org/")
    told = "HF_ENDPOINT is 'hub.example.org', which is no address of a hub: write it as https://hub.example.org"
    assert hub.hub_problem() == told


@pytest.mark.parametrize(
    ("status", "problem"), [(200, False), (403, False), (404, False), (502, True), (504, True), (407, True)]
)
def test_other_servers_are_asked_as_the_hub_is(fake_hub: Any, status: int, problem: bool) -> None:
    fake_hub.root_status = status
    assert (hub.server_problem(f"{hub.hub_endpoint()}/a/b.pth") is not None) == problem


def test_a_server_that_is_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "PROBE_SECONDS", 0.05)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        told = hub.server_problem(f"http://127.0.0.1:{silent.getsockname()[1]}/net.pth")
    assert told in ("127.0.0.1 cannot be reached (no answer within 0.05 s)", "127.0.0.1 cannot be reached (timed out)")


def test_a_hang_is_given_up_and_asked_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    release, asked = threading.Event(), []

    def hang(endpoint: str) -> None:
        asked.append(endpoint)
        release.wait()

    monkeypatch.setattr(hub, "_ask", hang)
    monkeypatch.setattr(hub, "PROBE_SECONDS", 0.05)
    for _ in range(2):
        with pytest.raises(HubUnreachableError, match=r"no answer within 0\.05 s"):
            hub.require_hub(WHAT, WAY_OUT)
    assert asked == ["https://huggingface.co"]
    release.set()


@pytest.mark.parametrize(
    ("status", "problem"), [(200, False), (404, False), (401, False), (502, True), (504, True), (407, True)]
)
def test_any_answer_of_the_server_counts_but_a_gateways_refusal_does_not(
    fake_hub: Any, status: int, problem: bool
) -> None:
    fake_hub.root_status = status
    assert (hub.hub_problem() is not None) == problem


def test_a_file_is_fetched_once_and_then_found_without_the_hub(fake_hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = hub.hub_file("someone/tiny", "model.safetensors", what=WHAT, way_out=WAY_OUT)
    assert path.read_bytes() == fake_hub.content
    assert hub.hub_sha256(path) == hashlib.sha256(fake_hub.content).hexdigest()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert hub.hub_file("someone/tiny", "model.safetensors", what=WHAT, way_out=WAY_OUT) == path
    with pytest.raises(HubUnreachableError, match="switched off by HF_HUB_OFFLINE"):
        hub.hub_file("someone/tiny", "other.safetensors", what=WHAT, way_out=WAY_OUT)


def test_a_file_that_the_hub_lacks_is_one_line(fake_hub: Any) -> None:
    problem = r"^weights of tiny cannot be fetched: someone/tiny has no missing\.safetensors: "
    with pytest.raises(WeightsError, match=problem) as caught:
        hub.hub_file("someone/tiny", "missing.safetensors", what=WHAT, way_out=WAY_OUT)
    assert not isinstance(caught.value, HubUnreachableError)
    assert str(caught.value).endswith(WAY_OUT)
    assert "\n" not in str(caught.value)


def test_a_name_that_is_no_sha256_declares_nothing(tmp_path: Path) -> None:
    assert hub.hub_sha256(tmp_path / "model.safetensors") is None
    assert hub.hub_sha256(tmp_path / ("a" * 40)) is None
    assert hub.hub_sha256(tmp_path / ("a" * 64)) == "a" * 64
