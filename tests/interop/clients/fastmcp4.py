"""MCP client on FastMCP 4.

--legacy  initializes a session even with a server that speaks 2026-07-28
"""

import sys
from contextlib import asynccontextmanager

from common import on_message, run
from fastmcp import Client


class InteropClient(Client):
    """FastMCP has no call for subscriptions; the SDK session below it has."""

    async def subscribe_resource(self, uri):
        await self.session.subscribe_resource(uri)


options = {"mode": "legacy"} if "--legacy" in sys.argv else {}
run(lambda url: InteropClient(url, message_handler=on_message, **options))
