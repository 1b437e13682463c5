#!/usr/bin/env bash
# Checks that the package installs and works on the oldest Python that it supports and on the newest that torch has
# wheels for, each in a fresh environment: `cuts3d --help`, `segment` of one photo, and fast tests. Needs PyPI, 9 GB of
# disk where temporary files are (TMPDIR), and two to three minutes.
#   bash scripts/installs.sh [VERSION...]     default: 3.10, and the newest one that is here
# A Python that is not on this machine, on the path or in pyenv, is skipped with a word, and so is one for which the disk
# is too full. Exit code 1 if a check fails.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
oldest=3.10
newest=(3.15 3.14 3.13 3.12 3.11) # of torch 2.15, the newest first
# Tests that need nothing but the package itself and take seconds.
tests="tests/config tests/shards tests/exports tests/test_public_api.py tests/test_errors.py tests/test_files.py
tests/stages/test_listing.py tests/stages/test_listing_many.py tests/cut/test_localcut.py tests/cut/test_ncut.py"
gigabytes=9 # for torch with its CUDA libraries, packed and unpacked, as pip needs them; uv takes 6
unset PYTHONPATH VIRTUAL_ENV
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
# uv installs in a fraction of pip's time. It comes from pip's index, whose settings it does not read by itself.
fetch_uv() {
    local pip index
    pip=("$scratch/tools/bin/python" -m pip --quiet --disable-pip-version-check)
    if ! { python3 -m venv "$scratch/tools" && "${pip[@]}" install uv; } >"$scratch/uv.log" 2>&1; then
        echo "there is no uv, so pip installs: $(tail -1 "$scratch/uv.log")"
        return
    fi
    uv=$scratch/tools/bin/uv
    index=${PIP_INDEX_URL:-$("${pip[@]}" config get global.index-url 2>/dev/null || true)}
    [ -z "$index" ] || export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$index}
    export UV_CACHE_DIR=$scratch/cache UV_NATIVE_TLS=1 UV_HTTP_TIMEOUT=180
}
install() { # PYTHON ENVIRONMENT
    local wanted=("$scratch/source" pytest hypothesis)
    "$1" -m venv "$2" || return
    if [ -n "$uv" ] && "$uv" pip install --quiet --python "$2/bin/python" "${wanted[@]}"; then
        return
    fi
    "$2/bin/python" -m pip --quiet --disable-pip-version-check --no-cache-dir install "${wanted[@]}"
}
check() { # ENVIRONMENT
    "$1/bin/cuts3d" --help >/dev/null &&
        "$1/bin/python" scripts/one_photo.py "$scratch/work" &&
        # shellcheck disable=SC2086 # words of a list
        OMP_NUM_THREADS=1 "$1/bin/python" -m pytest -q -p no:cacheprovider $tests
}
if [ $# -eq 0 ]; then
    for version in "${newest[@]}"; do
        [ -z "$(python_of "$version")" ] || break
        echo "skipped Python $version: it is not on this machine"
    done
    set -- "$oldest" "$version"
fi
failed=0
uv=
for wanted in "$@"; do
    python=$(python_of "$wanted")
    if [ -z "$python" ]; then
        echo "skipped Python $wanted: it is not on this machine"
        continue
    fi
    free=$(df -Pk "$scratch" | awk 'NR == 2 { print int($4 / 1e6) }')
    if [ "$free" -lt "$gigabytes" ]; then
        echo "skipped Python $wanted: $scratch has $free GB free, and $gigabytes are needed; set TMPDIR to another disk"
        continue
    fi
    echo "== Python $wanted: $python"
    begun=$SECONDS
    if ! [ -d "$scratch/source" ]; then
        # A copy, since others may install from the checkout meanwhile.
        mkdir "$scratch/source"
        tar -cf - --exclude __pycache__ pyproject.toml README.md LICENSE cuts3d_cli | tar -xf - -C "$scratch/source"
        fetch_uv
    fi
    if install "$python" "$scratch/env" && installed=$SECONDS && check "$scratch/env"; then
        echo "Python $wanted: ok, $((installed - begun)) s to install and $((SECONDS - installed)) s to check"
    else
        echo "Python $wanted: FAILED" >&2
        failed=1
    fi
    # The next Python takes another torch, with CUDA libraries of its own.
    rm -rf "$scratch/env" "$scratch/work" "$scratch/cache"
done
exit "$failed"
