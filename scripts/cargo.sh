# Sourced by the other scripts: leaves a `cargo` of at least 1.85 and a C linker on PATH and
# defines `xtask`. Where there is none, Debian 12's own packages (ci/packages/compiler.txt) supply
# them; the compiler is unpacked into .toolchain/, so nothing on the system is replaced.
root=$(cd "$(dirname "$0")/.." && pwd)
list=$root/ci/packages/compiler.txt tools=$root/.toolchain/rust-1.85
xtask() { cargo run --manifest-path "$root/Cargo.toml" --package xtask -- "$@"; }
stop() { echo "error: $*" >&2; exit 69; }
ready() {
    command -v cc >/dev/null && cargo --version 2>/dev/null |
        awk '{ split($2, v, "."); if (v[1] > 1 || v[2] >= 85) ok = 1 } END { exit !ok }'
}

bootstrap() {
    unpacked=$(awk '$2 ~ /^@/ { print $1 }' "$list")
    installed=$(awk '!/^#/ && $2 !~ /^@/ { print $1 }' "$list")
    [ "$(id -u)" = 0 ] && sudo= || sudo=sudo
    command -v apt-get >/dev/null || stop "no Rust of at least 1.85 and no apt-get here; install Rust and a C compiler"
    [ -z "$sudo" ] || command -v sudo >/dev/null || stop "not root and no sudo; install by hand:" $installed
    echo "No Rust of at least 1.85 with a C linker here."
    echo "Installing by apt-get, from Debian:" $installed
    echo "Unpacking into $tools, by apt-get download, from Debian:" $unpacked
    $sudo apt-get update -qq || echo "apt-get update failed; going on with the lists that are here" >&2
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $installed >/dev/null ||
        stop "apt-get could not install one of the packages named above"
    rm -rf "$tools.debs" && mkdir -p "$tools.debs"
    (cd "$tools.debs" && apt-get download -qq $unpacked) || stop "apt-get could not download one of the packages named above"
    for deb in "$tools.debs"/*.deb; do dpkg -x "$deb" "$tools" || stop "cannot unpack $deb"; done
    rm -r "$tools.debs"
}

command -v cargo >/dev/null || PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
if ! ready; then
    export LD_LIBRARY_PATH="$tools/usr/lib/x86_64-linux-gnu" PATH="$tools/usr/bin:$PATH"
    ready || bootstrap
fi
