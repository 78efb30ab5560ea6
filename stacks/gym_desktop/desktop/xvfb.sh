#!/bin/sh
# One display, and what an earlier one left behind is not in its way: a lock with a number that by now is another process's
# keeps Xvfb from starting for ever.
rm -f /tmp/.X1-lock /tmp/.X11-unix/X1
exec Xvfb :1 -screen 0 "${RESOLUTION}x24" -nolisten tcp -noreset
