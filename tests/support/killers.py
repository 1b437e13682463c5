"""What worker processes run in tests, in a module that they can import."""

from __future__ import annotations

import os
import signal

from cuts3d_cli.cut.image import CutResult, CutTask, cut_image


def cut_or_die(task: CutTask) -> CutResult:
    """Cut an image; one of 70 pixels in width kills the process, as the system does for want of memory."""
    if task.size[1] == 70:
        os.kill(os.getpid(), signal.SIGKILL)
    return cut_image(task)
