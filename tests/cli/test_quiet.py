"""Warnings, logs and progress bars of libraries do not reach stderr, unless the user asks for them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

NOISY = """
import sys
from cuts3d_cli.cli import app

def work(*_):
    import logging, os, warnings
    warnings.simplefilter("always")
    warnings.warn("an API is deprecated", FutureWarning)
    logging.getLogger("timm.models").warning("a key is missing")
    from tqdm import tqdm
    list(tqdm(range(3), desc="Loading weights"))
    from huggingface_hub.utils import are_progress_bars_disabled
    print(are_progress_bars_disabled(), os.environ["TRANSFORMERS_VERBOSITY"], "our own line", file=sys.stderr)
    return 0

app.exit_code = work
from cuts3d_cli.__main__ import main
main()
"""


def said(tmp_path: Path, **variables: str) -> str:
    script = tmp_path / "main.py"
    script.write_text(NOISY)
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("TQDM", "HF_", "TRANSFORMERS"))}
    environment = {**plain, "PYTHONPATH": str(Path(__file__).resolve().parents[2]), **variables}
    ran = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=True)
    return ran.stderr


def test_only_our_own_lines_reach_stderr(tmp_path: Path):
    assert said(tmp_path) == "True error our own line\n"


def test_what_the_user_asks_for_is_shown(tmp_path: Path):
    shown = said(tmp_path, PYTHONWARNINGS="default", TRANSFORMERS_VERBOSITY="info")
    assert "an API is deprecated" in shown
    assert "True info our own line" in shown
