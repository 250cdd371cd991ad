"""A network between a site and its federation that a test can cut: bytes vanish, and nobody is told."""

import asyncio
import threading
from contextlib import suppress


class Forwarder:
    """Hands TCP connections on to a port.

    While it is cut, nothing arrives and nothing is refused, as where packets are lost. Connections from before the
    cut stay silent for good, as where a firewall has forgotten them.
    """

    def __init__(self, target: int) -> None:
        self.port = 0
        self._target, self._loop, self._ready = target, asyncio.new_event_loop(), threading.Event()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve()))
        self._cuts = 0

    def __enter__(self) -> "Forwarder":
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        self._loop.close()

    def cut(self) -> None:
        """From now on nothing gets through."""
        self._cuts += 1
        self._loop.call_soon_threadsafe(self._whole.clear)

    def restore(self) -> None:
        """New connections get through again, and those that were asked for in the meantime."""
        self._loop.call_soon_threadsafe(self._whole.set)

    async def _serve(self) -> None:
        self._stop, self._whole = asyncio.Event(), asyncio.Event()
        self._whole.set()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._whole.wait()
        cuts = self._cuts
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.close()
            return
        try:
            await asyncio.gather(self._pass(reader, back, cuts), self._pass(there, writer, cuts))
        finally:
            for end in (writer, back):
                end.close()

    async def _pass(self, source: asyncio.StreamReader, to: asyncio.StreamWriter, cuts: int) -> None:
        with suppress(OSError, asyncio.CancelledError):
            while data := await source.read(1 << 16):
                if self._cuts != cuts:
                    await self._stop.wait()  # what is sent from now on is lost
                to.write(data)
                await to.drain()
            if self._cuts != cuts:
                await self._stop.wait()  # so is the end of the connection
            to.write_eof()
