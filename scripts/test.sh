#!/usr/bin/env bash
# Checks the project: style, types, imports, tests. Creates .venv on first use. Arguments go to pytest.
# DETECTRON2=upstream takes detectron2 from its repository instead of PyPI (see venv.sh).
set -euo pipefail
source "$(dirname "$0")/venv.sh" dev "${DETECTRON2:-pyonly}"
ruff format --check .
ruff check .
mypy
lint-imports
# Tests run in parallel, so that each of them computes in one thread.
OMP_NUM_THREADS=1 python -m pytest --numprocesses "$(nproc)" "$@"
