#!/usr/bin/env bash
# Runs stress tests: `bash scripts/stress.sh --help` lists them. Creates .venv on first use, with detectron2, which they
# train with; DETECTRON2=upstream takes it from its repository instead of PyPI (see venv.sh).
set -euo pipefail
source "$(dirname "$0")/venv.sh" demo "${DETECTRON2:-pyonly}"
exec python -m stress "$@"
