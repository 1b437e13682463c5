"""A subcommand costs two files: its module in `cli/`, and its line in `app`."""

from __future__ import annotations

import json as json_module
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cuts3d_cli.cli import app as app_module
from cuts3d_cli.cli.common import Json, MoreShards, Shards, expand_shards
from cuts3d_cli.cli.console import print_line
from cuts3d_cli.cli.options import fields, with_config
from cuts3d_cli.cli.spelling import COMMANDS
from cuts3d_cli.cli.tables import print_json
from cuts3d_cli.config import Config
from cuts3d_cli.errors import Setting, SettingError
from cuts3d_cli.shards.reader import read_shard
from tests.support.photos import pack_photos
from tests.support.running import Ran


@with_config("depth", fields("run", "workers"))
def count(shards: Shards = None, more_shards: MoreShards = None, json: Json = False, *, config: Config) -> None:
    """Count the samples of shards."""
    if config.depth.max_side < 100:
        raise SettingError("depth.max_side", f"{config.depth.max_side} is small: raise it, or ", Setting("run.workers"))
    samples = sum(1 for base in expand_shards(shards, more_shards, config) for _ in read_shard(base))
    if json:
        print_json({"samples": samples})
    else:
        print_line(f"{samples} samples")


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All that `app` needs to be told."""
    monkeypatch.setattr(app_module.app, "registered_commands", [*app_module.app.registered_commands])
    app_module.add_command("count", count)
    yield
    del COMMANDS["count"]


def test_a_new_command_works_like_the_others(cuts3d: Callable[..., Ran], alone: Path, registered: None):
    pack_photos(alone, 3, shard_size=2, with_depth=False)
    assert cuts3d("count", "--shards", ".") == Ran(code=0, out="3 samples\n", err="")
    assert json_module.loads(cuts3d("count", "--shards", ".", "--json").out) == {"samples": 3}
    assert "count" in cuts3d("--help").out
    page = cuts3d("count", "--help").out
    assert "Count the samples of shards." in page
    for option in ("--max-side", "--workers", "--set", "--preset"):
        assert option in page
    assert cuts3d("count", "a.tar").code == 1
    refused = cuts3d("count", "--max-side", 50)
    assert (refused.code, refused.line) == (2, "cuts3d: --max-side 50 is small: raise it, or --workers")
