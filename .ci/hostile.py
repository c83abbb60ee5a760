"""Tries what a program must not be able to do, then takes memory in many processes that outlive it."""

import os, socket, time
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        if os.stat(f"/proc/{pid}").st_uid == os.getuid(): continue
        os.kill(int(pid), 9)
        print("killed", pid)
    except OSError:
        pass
try:
    socket.create_connection(("127.0.0.1", 2001))
    print("connected")
except OSError:
    pass
print("so far", flush=True)
for _ in range(30):
    if os.fork() == 0:
        os.setsid()
        held = bytearray(40 << 20)
        time.sleep(600)
time.sleep(600)
