#!/bin/sh
# Lints, then the tests: on the host, then the runs of ci/matrix.toml that are not slow. Without
# arguments also the fuzz targets for a few seconds each, and the quick experiment, for what it
# checks and not for its verdict.
set -eu
. "$(dirname "$0")/cargo.sh"
xtask lint
xtask test "$@"
[ $# -gt 0 ] && exit
xtask fuzz --seconds 10
xtask experiment --quick --policy batch --policy quota --policy reuse --policy tagged
