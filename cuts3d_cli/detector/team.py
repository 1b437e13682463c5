"""What the processes of a training tell one another, in memory of the processor, so that no GPU waits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from detectron2.utils import comm

from cuts3d_cli.errors import Cuts3dError


class Team:
    """What the processes of a training tell one another. All of them must call a method at the same time."""

    def __init__(self) -> None:
        """Find this process's place among the others."""
        self.rank, self.world = comm.get_rank(), comm.get_world_size()

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and reports."""
        return self.rank == 0

    def greatest(self, *numbers: int) -> list[int]:
        """Return the greatest of what the processes say, number by number."""
        if self.world == 1:
            return list(numbers)
        said = torch.tensor(numbers)
        torch.distributed.all_reduce(said, torch.distributed.ReduceOp.MAX, group=comm._get_global_gloo_group())
        return [int(number) for number in said]

    def agreed(self, said: bool) -> bool:
        """Return whether all processes say yes."""
        return not self.greatest(not said)[0]

    def gather(self, thing: Any) -> list[Any]:
        """Return what the processes have, in the first one; nothing in the others."""
        found: list[Any] = comm.gather(thing)
        return found

    def wait(self) -> None:
        """Wait until all processes are here."""
        comm.synchronize()

    def from_neighbour(self, thing: Any) -> Any:
        """Return what the next process has; the last one's neighbour is the first."""
        # Half of them send first, so that nobody waits in a circle.
        group = comm._get_global_gloo_group()
        received: list[Any] = [None]
        ahead, behind = (self.rank + 1) % self.world, (self.rank - 1) % self.world
        steps: list[Callable[[], Any]] = [
            lambda: torch.distributed.send_object_list([thing], dst=behind, group=group),
            lambda: torch.distributed.recv_object_list(received, src=ahead, group=group),
        ]
        for step in steps if self.rank % 2 else reversed(steps):
            step()
        return received[0]

    def together(self, call: Callable[[], Any]) -> Any:
        """Call something in each process, and raise everywhere what fails in one of them.

        Raises:
            Cuts3dError: the first one of any process.
        """
        result, failure = None, None
        try:
            result = call()
        except Cuts3dError as error:
            failure = error
        if self.world == 1:
            if failure is not None:
                raise failure
            return result
        if self.greatest(failure is not None)[0]:
            raise next(error for error in comm.all_gather(failure) if error is not None) from failure
        return result
