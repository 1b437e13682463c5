#!/usr/bin/env bash
# Checks the project: style, types, tests. Makes .venv if it is missing. Arguments go to pytest.
set -euo pipefail
source "$(dirname "$0")/venv.sh" dev
ruff format --check .
ruff check .
mypy
# Tests run in parallel, so each of them computes in one thread.
OMP_NUM_THREADS=1 python -m pytest --numprocesses "$(nproc)" "$@"
