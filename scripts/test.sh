#!/bin/sh
# Lints, then all tests: on the host, then every guest of ci/matrix.toml in the emulators.
set -eu
. "$(dirname "$0")/cargo.sh"
xtask lint
xtask test "$@"
