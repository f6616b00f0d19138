# What the other scripts share: a virtual environment of the project's own, made once and kept current.
# Sourced, not run. It installs again only when what it would install has changed.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PYTHON="${PYTHON:-python3}"
ENVIRONMENT="${EDGEWISE_VENV:-.venv}"
export PIP_DISABLE_PIP_VERSION_CHECK=1

say() { printf '\033[1m%s\033[0m\n' "$*" >&2; }
fail() { printf '%s\n' "$*" >&2; exit 2; }

# missing_packages PACKAGE...: print those of Debian's packages that are not installed.
missing_packages() {
    local package
    for package in "$@"; do
        dpkg-query --show --showformat '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' ||
            printf '%s ' "$package"
    done
}

# install_packages PACKAGE...: needs root.
install_packages() {
    say "Installing $*"
    apt-get update -qq &&
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# prepare EXTRAS [PACKAGE...]: install edgewise[EXTRAS], then each PACKAGE without its dependencies.
prepare() {
    local extras="$1"; shift
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
        fail "Edgewise needs Python 3.11 or later; $PYTHON is $("$PYTHON" --version 2>&1 || echo missing). Set PYTHON to a newer one."
    if [ ! -x "$ENVIRONMENT/bin/python" ]; then
        say "Making a virtual environment in $ENVIRONMENT"
        "$PYTHON" -m venv "$ENVIRONMENT" ||
            fail "Python's venv module is missing: on Debian, apt-get install python3-venv"
    fi
    local python="$ENVIRONMENT/bin/python" stamp="$ENVIRONMENT/edgewise-$extras.stamp" wanted
    # An editable install in strict mode links each file, so new files ask for a new install.
    wanted="$(cat pyproject.toml; find common exporter runtime device firmware_profiles cli -name '*.py' -o -name '*.toml' | sort; echo "$@")"
    if [ ! -f "$stamp" ] || [ "$wanted" != "$(cat "$stamp")" ]; then
        say "Installing edgewise[$extras]${*:+ and $*}"
        "$python" -m pip install --quiet --upgrade 'pip>=24' 'setuptools>=77' wheel
        rm -rf build
        PYTHONWARNINGS=ignore "$python" -m pip install --quiet --no-build-isolation --config-settings editable_mode=strict -e ".[$extras]"
        for package in "$@"; do
            "$python" -m pip install --quiet --no-deps "$package"
        done
        # Both environments share one editable install: the other stamp no longer tells the truth.
        rm -f "$ENVIRONMENT"/edgewise-*.stamp
        printf '%s' "$wanted" > "$stamp"
    fi
    PATH="$(cd "$ENVIRONMENT/bin" && pwd):$PATH"
    export PATH
}
