"""What stands between a site and its federation in a test: connections are handed on, and may be cut or looked at."""

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Self

Pass = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Relay(ABC):
    """Hands TCP connections on to a port."""

    def __init__(self, target: int) -> None:
        self.port = 0
        self._target, self._loop, self._ready = target, asyncio.new_event_loop(), threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._connections: set[asyncio.Task[None]] = set()  # a stream does not keep the task alive that reads it

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = self._loop.create_task(self._connect(reader, writer))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.close()
            return
        try:
            out, home = self._ways()
            await asyncio.gather(out(reader, back), home(there, writer))
        finally:
            for end in (writer, back):
                end.close()

    @abstractmethod
    def _ways(self) -> tuple[Pass, Pass]:
        """How a new connection is handed on, there and back, until its sender ends it."""


class Forwarder(Relay):
    """A network that a test can cut.

    While it is cut, nothing arrives and nothing is refused, as where packets are lost. Connections from before the
    cut stay silent for good, as where a firewall has forgotten them.
    """

    def __init__(self, target: int) -> None:
        super().__init__(target)
        self._whole, self._cuts = asyncio.Event(), 0
        self._whole.set()

    def cut(self) -> None:
        """From now on nothing gets through."""
        self._cuts += 1
        self._loop.call_soon_threadsafe(self._whole.clear)

    def restore(self) -> None:
        """New connections get through again, and those that were asked for in the meantime."""
        self._loop.call_soon_threadsafe(self._whole.set)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._whole.wait()
        await super()._connect(reader, writer)

    def _ways(self) -> tuple[Pass, Pass]:
        way = partial(self._pass, self._cuts)
        return way, way

    async def _pass(self, cuts: int, source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(1 << 16):
                if self._cuts != cuts:
                    await self._stop.wait()  # what is sent from now on is lost
                to.write(data)
                await to.drain()
            if self._cuts != cuts:
                await self._stop.wait()  # so is the end of the connection
            to.write_eof()
