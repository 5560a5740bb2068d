"""The forwarder relays bytes both ways and survives a server that is down."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator

import pytest

from lora_cluster.forward import parse_route, serve

PAYLOAD = bytes(range(256)) * 8192  # 2 MiB: more than one chunk


def a_listener() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


@contextlib.asynccontextmanager
async def forwarding_to(port: int) -> AsyncIterator[int]:
    listener = a_listener()
    outside = int(listener.getsockname()[1])
    task = asyncio.create_task(serve({listener.detach(): ("127.0.0.1", port)}))
    try:
        yield outside
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write((await reader.read())[::-1])
    await writer.drain()
    writer.close()


async def test_bytes_go_both_ways_and_the_end_of_a_side_is_passed_on() -> None:
    server = await asyncio.start_server(shout, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, forwarding_to(port) as outside:
        reader, writer = await asyncio.open_connection("127.0.0.1", outside)
        writer.write(PAYLOAD)
        writer.write_eof()
        assert await reader.read() == PAYLOAD[::-1]
        writer.close()


async def test_a_server_that_is_down_looks_like_a_closed_connection() -> None:
    with a_listener() as unused:
        port = int(unused.getsockname()[1])
    async with forwarding_to(port) as outside:
        reader, writer = await asyncio.open_connection("127.0.0.1", outside)
        assert await reader.read() == b""
        writer.close()


async def test_a_server_that_is_killed_leaves_nobody_waiting_for_its_answer() -> None:
    async def die(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        # So that the kernel resets the connection, as it does for a process that died.
        at_once = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
        writer.transport.abort()

    server = await asyncio.start_server(die, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, forwarding_to(port) as outside:
        reader, writer = await asyncio.open_connection("127.0.0.1", outside)
        writer.write(b"?")
        with contextlib.suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(), timeout=30) == b""
        writer.close()


@pytest.mark.parametrize(
    ("text", "route"),
    [("3=127.0.0.1:6443", (3, ("127.0.0.1", 6443))), ("12=10.0.0.1:1", (12, ("10.0.0.1", 1)))],
)
def test_a_route_names_a_socket_and_an_address(
    text: str, route: tuple[int, tuple[str, int]]
) -> None:
    assert parse_route(text) == route
