# Sourced by the other scripts: changes to the root of the checkout, creates .venv if it is missing, installs what is asked
# for, activates it, and makes the packages beside this file importable.
# Arguments: the extras to install, such as "demo" or "dev"; then nothing, or the detectron2 to install:
#   pyonly    0.6 as pure Python, built from PyPI by scripts/detectron2
#   upstream  a current one from its repository: needs GitHub, a compiler (nvcc for CUDA) and some minutes
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
extras=$1
detectron2=${2:-}
upstream='git+https://github.com/facebookresearch/detectron2.git@02b5c4e295e990042a714712c21dc79b731e8833'
if ! [ -x .venv/bin/python ]; then
    python=${PYTHON:-python3}
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
        echo "cuts3d needs Python 3.10 or newer, not $("$python" --version): set PYTHON to another one" >&2
        exit 1
    }
    echo "creating .venv with $("$python" --version)" >&2
    "$python" -m venv .venv
fi
pip() { .venv/bin/python -m pip --quiet --disable-pip-version-check "$@"; }
# Install again only when the requirements have changed.
stamp=.venv/.installed-$extras
if ! [ -f "$stamp" ] || [ pyproject.toml -nt "$stamp" ]; then
    echo "installing cuts3d[$extras] into .venv (takes minutes the first time)" >&2
    pip install --editable ".[$extras]"
    touch "$stamp"
fi
case $detectron2 in
"") wanted="" ;;
pyonly) wanted="pyonly $(cat scripts/detectron2/pyproject.toml scripts/detectron2/backend.py | cksum)" ;;
upstream) wanted="upstream $upstream" ;;
*)
    echo "DETECTRON2 must be 'pyonly' or 'upstream', not '$detectron2'" >&2
    exit 2
    ;;
esac
stamp=.venv/.installed-detectron2
if [ -n "$wanted" ] && [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    echo "installing detectron2 ($detectron2) into .venv" >&2
    rm -f "$stamp"
    # From a local folder or file pip installs even if the same version is installed already.
    if [ "$detectron2" = pyonly ]; then
        pip install ./scripts/detectron2
    else
        pip install 'setuptools>=77.0.3,<82' wheel ninja
        built=$(mktemp -d)
        pip wheel --no-deps --no-build-isolation --wheel-dir "$built" "$upstream"
        pip install "$built"/detectron2-*.whl
        rm -r "$built"
    fi
    echo "$wanted" >"$stamp"
fi
unset -f pip
export PATH="$PWD/.venv/bin:$PATH" PYTHONPATH="$PWD/scripts${PYTHONPATH:+:$PYTHONPATH}"
