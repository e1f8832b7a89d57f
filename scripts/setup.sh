#!/bin/sh
# Installs what is missing: the compiler, the emulators, the ISO tools. Says what and from where.
set -eu
. "$(dirname "$0")/cargo.sh"
xtask setup "$@"
