#!/usr/bin/env bash
# Shows what cuts3d does, on input that needs no model hub. Makes .venv if it is missing. Pictures go to demo-out/.
set -euo pipefail
source "$(dirname "$0")/venv.sh" demo
exec python scripts/demo.py "$@"
