"""A WebSocket server, and a client that goes through Stent: echo, fragments, ping, close codes.

websocket_check.py serve PORT       serves until killed
websocket_check.py call URL [CA]    exits with 0 if everything does what it should
"""

import asyncio
import ssl
import sys

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed


async def answer(connection):
    async for message in connection:
        if message == "close":
            await connection.close(4321, "as asked")
            return
        await connection.send(message)


async def run_server(port):
    async with serve(answer, "127.0.0.1", port, max_size=None) as server:
        await server.serve_forever()


async def call(url, ca):
    trust = ssl.create_default_context(cafile=ca) if ca else None
    async with asyncio.timeout(30), connect(url, ssl=trust, max_size=None, compression=None) as connection:
        for message in ["text", "ü" * 100, b"\0\xff", b"x" * 1_000_000, ""]:
            await connection.send(message)
            assert await connection.recv() == message, message[:20]
        await connection.send(["in ", "three ", "fragments"])
        assert await connection.recv() == "in three fragments"
        await (await connection.ping(b"payload"))
        await connection.send("close")
        try:
            await connection.recv()
            raise AssertionError("not closed")
        except ConnectionClosed as closed:
            assert (closed.rcvd.code, closed.rcvd.reason) == (4321, "as asked"), closed.rcvd
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        for number in range(50):
            group.create_task(one_of_many(url, trust, number))


async def one_of_many(url, trust, number):
    async with connect(url, ssl=trust) as connection:
        await connection.send(str(number))
        assert await connection.recv() == str(number)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        asyncio.run(run_server(int(sys.argv[2])))
    else:
        asyncio.run(call(sys.argv[2], *sys.argv[3:] or [None]))
