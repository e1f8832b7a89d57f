#!/bin/sh
# Builds the image and the bundled guests. With arguments runs a guest: `scripts/run.sh [GUEST|FILE]
# [options]`. Without, shows the project: boots, runs `hello`, then races against KVM's figures.
set -eu
. "$(dirname "$0")/cargo.sh"
if [ $# -gt 0 ]; then
    xtask run "$@"
else
    xtask run hello
    xtask bench race
fi
