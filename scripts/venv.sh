# Sourced by the other scripts: makes .venv if it is missing, installs into it what is asked for, and activates it.
# Arguments: the extras to install, such as "demo" or "dev".
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
extras=$1
if ! [ -x .venv/bin/python ]; then
    python=${PYTHON:-python3}
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
        echo "cuts3d needs Python 3.10 or newer, $("$python" --version) was found: set PYTHON to another one" >&2
        exit 1
    }
    echo "making .venv with $("$python" --version)" >&2
    "$python" -m venv .venv
fi
# Installed again only when what is to be installed has changed.
stamp=.venv/.installed-$extras
if ! [ -f "$stamp" ] || [ pyproject.toml -nt "$stamp" ]; then
    echo "installing cuts3d[$extras] into .venv (some minutes the first time)" >&2
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[$extras]"
    touch "$stamp"
fi
export PATH="$PWD/.venv/bin:$PATH"
