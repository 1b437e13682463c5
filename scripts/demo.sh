#!/usr/bin/env bash
# Shows what cuts3d does, on input that needs no model hub. Makes .venv if it is missing. Pictures go to demo-out/.
# --train trains a small detector too; --run follows one recipe from photos to a self-trained detector. For either of
# them detectron2 is installed; DETECTRON2=upstream takes it from its repository in place of the one from PyPI (see
# venv.sh).
set -euo pipefail
detectron2=
for argument in "$@"; do
    if [ "$argument" = --train ] || [ "$argument" = --run ]; then detectron2=${DETECTRON2:-pyonly}; fi
done
source "$(dirname "$0")/venv.sh" demo "$detectron2"
exec python scripts/demo.py "$@"
