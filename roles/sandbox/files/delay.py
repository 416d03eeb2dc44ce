#!/usr/bin/env python3
"""delay.py PID INTERFACE MILLISECONDS: holds back what is routed to INTERFACE, and then hands it to the kernel again.

Run within a network namespace, where nothing else delays: netem is not in every kernel, TUN is. The interface is made
here, and is gone with this program: when the process PID ends, or when somebody removes the interface.
"""

import collections
import fcntl
import os
import select
import struct
import sys
import time

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000

pid, name, seconds = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]) / 1000
life = os.pidfd_open(pid)
tun = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
print("made", flush=True)
os.close(1)

held: collections.deque[tuple[float, bytes]] = collections.deque()
try:
    while True:
        wait = max(0.0, held[0][0] - time.monotonic()) if held else None
        ready, _, _ = select.select([tun, life], [], [], wait)
        if life in ready:
            break
        if tun in ready:
            held.append((time.monotonic() + seconds, os.read(tun, 65536)))
        while held and held[0][0] <= time.monotonic():
            os.write(tun, held.popleft()[1])
except OSError:
    pass  # the interface was removed
