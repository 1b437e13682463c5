#!/usr/bin/env bash
# Checks that the package installs and works on the oldest and the newest Python that it supports, each in a fresh
# environment: `cuts3d --help`, `segment` of one photo, and fast tests. Needs PyPI, 8 GB of disk at a time and minutes.
#   bash scripts/installs.sh [VERSION...]     default: 3.10 3.13
# A Python that is not on this machine, on the path or in pyenv, is skipped with a word. Exit code 1 if a check fails.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# Tests that need nothing but the package itself and take seconds.
tests="tests/config tests/shards tests/exports tests/test_public_api.py tests/test_errors.py tests/test_files.py
tests/stages/test_listing.py tests/stages/test_listing_many.py tests/cut/test_localcut.py tests/cut/test_ncut.py"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python_of() {
    local found
    for found in "$(command -v "python$1" || true)" "$HOME"/.pyenv/versions/"$1".*/bin/python; do
        if [ -x "$found" ] && "$found" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$1')" 2>/dev/null; then
            echo "$found"
            return
        fi
    done
}
failed=0
[ $# -gt 0 ] || set -- 3.10 3.13
for wanted in "$@"; do
    python=$(python_of "$wanted")
    if [ -z "$python" ]; then
        echo "skipped Python $wanted: it is not on this machine"
        continue
    fi
    echo "== Python $wanted: $python"
    begun=$SECONDS
    rm -rf "$scratch/env" "$scratch/work"
    if "$python" -m venv "$scratch/env" &&
        "$scratch/env/bin/python" -m pip --quiet --disable-pip-version-check --no-cache-dir install . pytest hypothesis &&
        "$scratch/env/bin/cuts3d" --help >/dev/null &&
        "$scratch/env/bin/python" scripts/one_photo.py "$scratch/work" &&
        # shellcheck disable=SC2086 # words of a list
        OMP_NUM_THREADS=1 "$scratch/env/bin/python" -m pytest -q -p no:cacheprovider $tests; then
        echo "Python $wanted: ok, $((SECONDS - begun)) s"
    else
        echo "Python $wanted: FAILED" >&2
        failed=1
    fi
done
exit "$failed"
