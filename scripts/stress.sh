#!/usr/bin/env bash
# Runs stress tests: `bash scripts/stress.sh --help` lists them. Creates .venv on first use. Those that train need
# detectron2, which is installed too; DETECTRON2=upstream takes it from its repository instead of PyPI (see venv.sh).
set -euo pipefail
detectron2=
case ${1:-} in torture-train | golden) detectron2=${DETECTRON2:-pyonly} ;; esac
source "$(dirname "$0")/venv.sh" demo "$detectron2"
exec python -m stress "$@"
