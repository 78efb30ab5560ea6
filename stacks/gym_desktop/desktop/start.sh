#!/bin/sh
# Judges the secrets, makes the folders that the desktop expects, and hands over to supervisord.
set -eu

refuse() { echo "gym_desktop: $1" >&2; exit 1; }

length=$(wc -c < /run/secrets/VNC_PASSWORD)
[ "$length" -gt 0 ] || refuse "no VNC password: name a file with 1 to 8 characters in VNC_PASSWORD_FILE"
# VNC takes the first eight and says nothing of the rest: a longer password would only look stronger.
[ "$length" -le 8 ] || refuse "the VNC password has $length characters, VNC knows 8 at most; choose a shorter one"
[ -s /run/secrets/JUPYTER_TOKEN ] || refuse "no Jupyter token: name a file with one in JUPYTER_TOKEN_FILE"
# Jupyter reads the file as it is: with a line break in it no token would ever be right.
[ "$(tr -d '\n' < /run/secrets/JUPYTER_TOKEN | wc -c)" -eq "$(wc -c < /run/secrets/JUPYTER_TOKEN)" ] \
    || refuse "the Jupyter token has a line break in it: write it with printf %s"

mkdir -p -m 0700 /tmp/run
mkdir -p -m 1777 /tmp/.X11-unix
export XDG_RUNTIME_DIR=/tmp/run JUPYTER_RUNTIME_DIR=/tmp/run/jupyter
mkdir -p "$HOME/notebooks" "$HOME/Desktop"
[ -e "$HOME/Desktop/notebooks" ] || ln -s ../notebooks "$HOME/Desktop/notebooks"
for example in /opt/examples/*; do
    [ -e "$HOME/notebooks/${example##*/}" ] || cp "$example" "$HOME/notebooks/"
done
exec supervisord --configuration /opt/desktop/supervisord.conf
