#!/usr/bin/env bash
# Shows what cuts3d does, on input that needs no model hub. Pictures go to demo-out/. Creates .venv on first use.
# --heap cuts rendered heaps alone, with preset objects beside the paper's cut. --train also trains a small detector;
# --run runs one recipe, from photos to a self-trained detector. Both need detectron2, which is installed too;
# DETECTRON2=upstream takes it from its repository instead of PyPI (see venv.sh).
set -euo pipefail
detectron2=
for argument in "$@"; do
    if [ "$argument" = --train ] || [ "$argument" = --run ]; then detectron2=${DETECTRON2:-pyonly}; fi
done
source "$(dirname "$0")/venv.sh" demo "$detectron2"
exec python -m demo "$@"
