#!/bin/sh
# Runs a program once the display answers.
tries=0
until xdpyinfo >/dev/null 2>&1; do
    tries=$((tries + 1))
    [ "$tries" -lt 150 ] || { echo "$1: no display within 30 s" >&2; exit 1; }
    sleep 0.2
done
exec "$@"
