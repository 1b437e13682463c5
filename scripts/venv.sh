# Sourced by the other scripts: makes .venv if it is missing, installs into it what is asked for, and activates it.
# Arguments: the extras to install, such as "demo" or "dev"; then nothing, or which detectron2 to install:
#   pyonly    0.6 as pure Python, made from PyPI by scripts/detectron2
#   upstream  a current one from its repository: needs GitHub, a compiler (nvcc for CUDA) and some minutes
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
extras=$1
detectron2=${2:-}
upstream='git+https://github.com/facebookresearch/detectron2.git@02b5c4e295e990042a714712c21dc79b731e8833'
if ! [ -x .venv/bin/python ]; then
    python=${PYTHON:-python3}
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
        echo "cuts3d needs Python 3.10 or newer, $("$python" --version) was found: set PYTHON to another one" >&2
        exit 1
    }
    echo "making .venv with $("$python" --version)" >&2
    "$python" -m venv .venv
fi
pip() { .venv/bin/python -m pip --quiet --disable-pip-version-check "$@"; }
# Installed again only when what is to be installed has changed.
stamp=.venv/.installed-$extras
if ! [ -f "$stamp" ] || [ pyproject.toml -nt "$stamp" ]; then
    echo "installing cuts3d[$extras] into .venv (some minutes the first time)" >&2
    pip install --editable ".[$extras]"
    touch "$stamp"
fi
case $detectron2 in
"") wanted="" ;;
pyonly) wanted="pyonly $(cat scripts/detectron2/pyproject.toml scripts/detectron2/backend.py | cksum)" ;;
upstream) wanted="upstream $upstream" ;;
*)
    echo "detectron2 comes as 'pyonly' or 'upstream', not as '$detectron2'" >&2
    exit 2
    ;;
esac
stamp=.venv/.installed-detectron2
if [ -n "$wanted" ] && [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    echo "installing detectron2 ($detectron2) into .venv" >&2
    rm -f "$stamp"
    # What lies in a folder or file here is installed even where pip finds the same version there already.
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
export PATH="$PWD/.venv/bin:$PATH"
