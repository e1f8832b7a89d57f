#!/bin/sh
# Builds the image and the bundled guests and runs one of them: `scripts/run.sh [GUEST|FILE] [options]`.
set -eu
. "$(dirname "$0")/cargo.sh"
xtask run "$@"
