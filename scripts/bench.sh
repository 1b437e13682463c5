#!/usr/bin/env bash
# Runs benchmarks: `bash scripts/bench.sh --help` lists them. Creates .venv on first use. Those that train need
# detectron2, which is installed too; DETECTRON2=upstream takes it from its repository instead of PyPI (see venv.sh).
set -euo pipefail
detectron2=
for argument in "$@"; do
    case $argument in train | train-step | selftrain) detectron2=${DETECTRON2:-pyonly} ;; esac
done
source "$(dirname "$0")/venv.sh" demo "$detectron2"
exec python -m bench "$@"
