#!/usr/bin/env bash
# Runs benchmarks: `bash scripts/bench.sh --help` lists them. Creates .venv on first use. Those that train need
# detectron2, which is installed too; DETECTRON2=upstream takes it from its repository instead of PyPI (see venv.sh).
# `report` needs a browser: Debian's chromium and chromium-driver.
set -euo pipefail
detectron2=
extras=demo
for argument in "$@"; do
    case $argument in
    loader | train | train-step | selftrain) detectron2=${DETECTRON2:-pyonly} ;;
    report) extras=dev ;;
    esac
done
source "$(dirname "$0")/venv.sh" "$extras" "$detectron2"
exec python -m bench "$@"
