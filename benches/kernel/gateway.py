"""Times cells in ipykernel behind Jupyter Kernel Gateway: gateway.py CELLS."""

import asyncio
import json
import socket
import subprocess
import sys
import time
import uuid

import tornado.httpclient
import tornado.websocket


async def cell(connection, code):
    begun = time.perf_counter()
    message_id = uuid.uuid4().hex
    await connection.write_message(json.dumps({
        "header": {"msg_id": message_id, "username": "", "session": "bench", "date": "",
                   "msg_type": "execute_request", "version": "5.3"},
        "parent_header": {}, "metadata": {}, "channel": "shell",
        "content": {"code": code, "silent": False, "store_history": True, "user_expressions": {},
                    "allow_stdin": False},
    }))
    pending = {"execute_reply", "idle"}
    while pending:
        message = json.loads(await connection.read_message())
        if message["parent_header"].get("msg_id") != message_id:
            continue
        pending.discard(message["msg_type"])
        pending.discard(message["content"].get("execution_state"))
    return (time.perf_counter() - begun) * 1000


def report(what, times):
    times = sorted(times)
    at = lambda share: times[int((len(times) - 1) * share)]
    print(f"Jupyter Kernel Gateway, {what}: p50 {at(0.5):.2f} ms, p99 {at(0.99):.2f} ms", flush=True)


async def main(cells):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "kernel_gateway", "--KernelGatewayApp.ip=127.0.0.1",
         f"--KernelGatewayApp.port={port}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    try:
        client = tornado.httpclient.AsyncHTTPClient()
        for _ in range(200):
            try:
                await client.fetch(f"http://127.0.0.1:{port}/api")
                break
            except OSError:
                await asyncio.sleep(0.1)
        begun = time.perf_counter()
        made = await client.fetch(f"http://127.0.0.1:{port}/api/kernels", method="POST", body="{}")
        kernel = json.loads(made.body)["id"]
        url = f"ws://127.0.0.1:{port}/api/kernels/{kernel}/channels?session_id=bench"
        connection = await tornado.websocket.websocket_connect(url)
        await cell(connection, "x = 0")
        print(f"Jupyter Kernel Gateway, first cell: {(time.perf_counter() - begun) * 1000:.0f} ms")
        for code in ("x += 1", "x", "print(42)"):
            report(code, [await cell(connection, code) for _ in range(cells)])
    finally:
        server.terminate()
        server.wait()


asyncio.run(main(int(sys.argv[1])))
