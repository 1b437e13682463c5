"""The errors that users see. Each carries one line: what is wrong, where, and the way out.

`cuts3d_cli.cli.app` alone turns them into exit codes: 0 done, 1 failure, 2 usage, 3 finished with failed samples, 130
interrupted.
"""

from __future__ import annotations


class Cuts3dError(Exception):
    """A failure that is explained in one line. Exit code 1."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        """Keep the message to one line, whatever names of files are in it."""
        super().__init__(" ".join(message.splitlines()))


class UsageError(Cuts3dError):
    """The command line, environment or configuration file asks for something impossible. Exit code 2."""

    exit_code = 2


class FileError(Cuts3dError):
    """A file cannot be written, or cannot be read."""


class ShardError(FileError):
    """A shard, sidecar or manifest is missing, damaged or does not fit its neighbours."""


class DatasetError(Cuts3dError):
    """A benchmark is not where it was looked for, or incomplete, or its annotations are damaged."""


class WeightsError(Cuts3dError):
    """Model weights are missing, damaged, or belong to another architecture."""


class HubUnreachableError(WeightsError):
    """Weights are not in the cache and the model hub cannot be reached (or is switched off)."""


class SampleError(Exception):
    """One sample cannot be processed. Never stops a shard: the reason is recorded in the manifest."""

    def __init__(self, message: str) -> None:
        """Keep the message to one line, as of `Cuts3dError`."""
        super().__init__(" ".join(message.splitlines()))
