"""Keeps what libraries tell their developers off stderr, which is for lines of ours."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Mapping
from typing import Any

VARIABLES: Mapping[str, str] = {
    "PYTHONWARNINGS": "ignore",  # of worker processes
    "TQDM_DISABLE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "DIFFUSERS_VERBOSITY": "error",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
"""Variables that libraries read when they are imported. What the user has set stays."""


def quiet_libraries() -> None:
    """Silence warnings, logs and progress bars of libraries, for the life of the process and of its workers.

    Warnings are shown where Python was asked for them, by `-W` or `PYTHONWARNINGS`.
    """
    asked = bool(sys.warnoptions)
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)
    # Libraries change the filters while they are imported: nothing gets past the last function.
    if not asked:
        warnings.showwarning = _pass_over
    # Without any handler, Python prints what is logged.
    logging.getLogger().addHandler(logging.NullHandler())


def _pass_over(*_: Any, **__: Any) -> None:
    """Show no warning."""
