#!/usr/bin/env bash
# Renders RGB-D scenes with instance masks into a folder: `bash scripts/scenes.sh --help`. Creates .venv on first use.
set -euo pipefail
source "$(dirname "$0")/venv.sh" demo
exec python -m scenes "$@"
