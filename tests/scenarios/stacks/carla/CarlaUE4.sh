#!/bin/bash
# Started as CARLA's own is, with its arguments; the file VERSION beside it says which one it plays.
set -eu
cd "$(dirname "$0")"
port=2000
for argument; do
    case $argument in -carla-rpc-port=*) port=${argument#*=} ;; esac
done
exec python3 -u server.py "$port" ready "$(cat VERSION)"
