"""MCP client on the Python SDK 1.x (`mcp`).

--token NAME   sends NAME as its bearer token
"""

import sys
from contextlib import asynccontextmanager

from common import emit, on_message, run
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client


def own_client():
    """`None` lets the SDK make its own."""
    if "--token" not in sys.argv:
        return None
    token = sys.argv[sys.argv.index("--token") + 1]
    return create_mcp_http_client(headers={"authorization": f"Bearer {token}"})


@asynccontextmanager
async def connect(url):
    async with streamable_http_client(url, http_client=own_client()) as (read, write, get_session_id):
        async with ClientSession(read, write, message_handler=on_message) as session:
            await session.initialize()
            emit(event="session", id=get_session_id())
            yield session


run(connect)
