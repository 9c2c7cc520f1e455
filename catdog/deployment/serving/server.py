"""The server's end, in which no request is lost."""

import asyncio
import threading
import time
from socket import socket

import uvicorn

# So long do clients that keep a connection open have time to send a request on it before it is closed.
PARTING_S = 1.0
LOOK_S = 0.02


class PartingServer(uvicorn.Server):
    """Uvicorn's server, which says goodbye before it closes connections.

    Uvicorn closes those that wait for a request at once, and loses a request that is on its way at this moment. So for a second,
    or until there is no connection, requests are still answered, and each answer closes its connection.

    Args:
        config: as Uvicorn has it.
        parting: set when the end begins; answers close their connections from then on.
    """

    def __init__(self, config: uvicorn.Config, parting: threading.Event) -> None:
        super().__init__(config)
        self._parting = parting

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """Ends the server."""
        self._parting.set()
        until = time.monotonic() + PARTING_S
        while self.server_state.connections and time.monotonic() < until and not self.force_exit:
            await asyncio.sleep(LOOK_S)
        await super().shutdown(sockets)
