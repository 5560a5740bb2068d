"""The way in from the host: sockets that listen there, relayed to servers inside.

A socket stays in the network namespace in which it was made, so the parent makes them outside and
hands them down. Nothing of the host's network configuration changes.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys

CHUNK_BYTES = 256 * 1024
CONNECT_SECONDS = 5.0


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
    except OSError:
        # One end was reset, as by a server that was killed: the other would wait for ever for an
        # answer that nobody will give.
        writer.transport.abort()


async def relay(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, host: str, port: int
) -> None:
    """Carry one connection both ways until both sides are done."""
    try:
        connecting = asyncio.open_connection(host, port, limit=CHUNK_BYTES)
        inner_reader, inner_writer = await asyncio.wait_for(connecting, CONNECT_SECONDS)
    except (OSError, TimeoutError):
        writer.close()  # the caller sees a reset, as from a server that is down
        return
    try:
        await asyncio.gather(_pump(reader, inner_writer), _pump(inner_reader, writer))
    finally:
        for side in (inner_writer, writer):
            side.close()
            with contextlib.suppress(OSError):
                await side.wait_closed()


async def serve(routes: dict[int, tuple[str, int]]) -> None:
    """Relay every inherited listening socket (by file descriptor) to its address, for ever."""
    servers = []
    for fd, (host, port) in routes.items():

        async def handle(
            reader: asyncio.StreamReader,
            writer: asyncio.StreamWriter,
            host: str = host,
            port: int = port,
        ) -> None:
            await relay(reader, writer, host=host, port=port)

        listener = socket.socket(fileno=fd)
        servers.append(await asyncio.start_server(handle, sock=listener, limit=CHUNK_BYTES))
    await asyncio.gather(*(server.serve_forever() for server in servers))


def parse_route(text: str) -> tuple[int, tuple[str, int]]:
    """`FD=HOST:PORT`, as on the command line."""
    fd, _, address = text.partition("=")
    host, _, port = address.rpartition(":")
    return int(fd), (host, int(port))


if __name__ == "__main__":
    asyncio.run(serve(dict(parse_route(argument) for argument in sys.argv[1:])))
