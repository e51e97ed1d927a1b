"""Passes connections on: python forward.py LISTEN TARGET, each `HOST:PORT` or `unix:PATH`.

By a socket file, session.py gives the AppView's network one port of the simulated network and nothing else of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(ConnectionError):
        writer.close()
        await writer.wait_closed()


async def serve(listen: str, target: str) -> None:
    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if target.startswith("unix:"):
                there, back = await asyncio.open_unix_connection(target.removeprefix("unix:"))
            else:
                host, _, port = target.rpartition(":")
                there, back = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.close()
            return
        await asyncio.gather(pass_on(reader, back), pass_on(there, writer))

    if listen.startswith("unix:"):
        path = Path(listen.removeprefix("unix:"))
        path.unlink(missing_ok=True)
        server = await asyncio.start_unix_server(accept, path)
    else:
        host, _, port = listen.rpartition(":")
        server = await asyncio.start_server(accept, host, int(port))
    await server.serve_forever()


asyncio.run(serve(*sys.argv[1:]))
