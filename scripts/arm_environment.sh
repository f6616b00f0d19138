# What tests/arm needs beside this machine's own Python: emulators, and the system and the wheels of
# an Arm board. Sourced after environment.sh and `prepare`, not run.
#
# All of it stays in ~/.cache/edgewise/arm (or where XDG_CACHE_HOME says; 350 MB), in a folder whose
# name is a hash of what it holds: checkouts share it, and another list of packages makes another.
# It is built under a lock and renamed when it is complete.

ARM_PROGRAMS=(qemu-user-static mmdebstrap)
# Folder, Debian's architecture and release, packages; nothing is configured, their files suffice.
ARM_SYSROOTS=(
    "arm64 arm64 trixie python3,libpython3.13-stdlib,libstdc++6"
    "armhf armhf bookworm python3,python3-numpy,libpython3.11-stdlib,libstdc++6"
)
# Folder, pip's options: what a board's own pip would install.
ARM_WHEELS=(
    "arm64-wheels --python-version 313 --platform manylinux_2_28_aarch64
        --platform manylinux_2_27_aarch64 --platform manylinux_2_17_aarch64
        numpy==2.4.6 ai-edge-litert==2.3.0"
    "armhf-wheels --python-version 311 --platform manylinux_2_34_armv7l
        --no-deps tflite-runtime==2.14.0"
)
ARM_COMMAND_LIMIT=240  # seconds for each download: without a network the tests must go on

ARM_CACHES="${XDG_CACHE_HOME:-$HOME/.cache}/edgewise/arm"
ARM_CACHE="$ARM_CACHES/$(printf '%s\n' "${ARM_SYSROOTS[@]}" "${ARM_WHEELS[@]}" | sha256sum | cut -c1-12)"

# find_arm: let the tests use what is there, or say why they are skipped.
find_arm() {
    if [ -d "$ARM_CACHE" ] && command -v qemu-aarch64-static >/dev/null; then
        unset EDGEWISE_ARM_MISSING
        export EDGEWISE_ARM="$ARM_CACHE"
    else
        export EDGEWISE_ARM_MISSING="${1:-scripts/arm was not run}"
        return 1
    fi
}

# prepare_arm: fetch what is missing; fails with the reason in EDGEWISE_ARM_MISSING.
prepare_arm() {
    find_arm && return
    local reason
    if reason="$(_fetch_arm)"; then find_arm; else find_arm "$reason"; fi
}

# Prints the reason if it fails, nothing else.
_fetch_arm() {
    local missing
    command -v dpkg-query >/dev/null || { echo "only a Debian system can fetch files of Arm boards"; return 1; }
    missing="$(missing_packages "${ARM_PROGRAMS[@]}")"
    if [ "$(id -u)" != 0 ]; then
        echo "files of Arm boards are missing, which root alone can fetch: sudo scripts/arm"
        return 1
    fi
    if [ -n "$missing" ]; then
        install_packages $missing >&2 || { echo "$missing could not be installed"; return 1; }
    fi
    mkdir -p "$ARM_CACHES"
    (
        flock 9
        [ ! -d "$ARM_CACHE" ] || exit 0  # another run fetched it meanwhile
        rm -rf "$ARM_CACHES"/*.part
        say "Fetching the files and wheels of Arm boards into $ARM_CACHE"
        _fill_arm "$ARM_CACHE.part" && mv -T "$ARM_CACHE.part" "$ARM_CACHE"
    ) 9>"$ARM_CACHES/lock"
}

# All at once: most of the time is the network's.
_fill_arm() {
    local folder="$1" line processes=() names=() failed="" i
    mkdir -p "$folder"
    for line in "${ARM_SYSROOTS[@]}"; do
        _sysroot "$folder" $line >"$ARM_CACHES/${line%% *}.log" 2>&1 &
        processes+=($!) names+=("${line%% *}")
    done
    for line in "${ARM_WHEELS[@]}"; do
        _wheels "$folder" $line >"$ARM_CACHES/${line%% *}.log" 2>&1 &
        processes+=($!) names+=("${line%% *}")
    done
    for i in "${!processes[@]}"; do
        wait "${processes[$i]}" || failed="$failed $ARM_CACHES/${names[$i]}.log"
    done
    [ -z "$failed" ] || { echo "Debian's packages or the wheels for Arm could not be fetched:$failed"; return 1; }
    # update-alternatives would have linked these.
    local library libraries="$folder/armhf/usr/lib/arm-linux-gnueabihf"
    for library in blas lapack; do
        ln -s "$library/lib$library.so.3" "$libraries/lib$library.so.3"
    done
    # Compiled once: under the emulator it takes seconds, at each start.
    _import_numpy aarch64 cortex-a76 "$folder/arm64" python3.13 "$folder/arm64-wheels" &&
        _import_numpy arm cortex-a15 "$folder/armhf" python3.11 "$folder/armhf/usr/lib/python3/dist-packages" ||
        { echo "Python of an Arm board does not run under the emulator"; return 1; }
}

# _sysroot FOLDER NAME ARCHITECTURE RELEASE PACKAGES
_sysroot() {
    timeout "$ARM_COMMAND_LIMIT" mmdebstrap --mode=root --arch="$3" --variant=extract --include="$5" \
        --skip=check/qemu "$4" "$1/$2" "deb http://deb.debian.org/debian $4 main" || return
    local name
    for name in bin sbin lib; do
        [ -e "$1/$2/$name" ] || ln -s "usr/$name" "$1/$2/$name"
    done
}

# _wheels FOLDER NAME PIP_OPTION...
_wheels() {
    local target="$1/$2"; shift 2
    timeout "$ARM_COMMAND_LIMIT" python -m pip install --quiet --no-compile --target "$target" \
        --only-binary=:all: "$@"
}

# _import_numpy MACHINE CPU SYSROOT PYTHON PACKAGES
_import_numpy() {
    "qemu-$1-static" -U PYTHONDONTWRITEBYTECODE -E "PYTHONPATH=$5" -cpu "$2" -L "$3" "$3/usr/bin/$4" \
        -c "import dataclasses, json, numpy, pathlib, subprocess" >&2
}
