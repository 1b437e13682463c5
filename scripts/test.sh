#!/usr/bin/env bash
# Checks the project: style, types, tests. Makes .venv if it is missing. Arguments go to pytest.
# DETECTRON2=upstream takes detectron2 from its repository in place of the one from PyPI (see venv.sh).
set -euo pipefail
source "$(dirname "$0")/venv.sh" dev "${DETECTRON2:-pyonly}"
ruff format --check .
ruff check .
mypy
# Tests run in parallel, so each of them computes in one thread.
OMP_NUM_THREADS=1 python -m pytest --numprocesses "$(nproc)" "$@"
