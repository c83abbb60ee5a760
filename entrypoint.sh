#!/bin/sh
# Starts the adapter with the embedded engine. It takes this process's place, so that it gets the
# container's signals and its exit code is the container's.
set -eu
exec session-adapter serve "$@"
