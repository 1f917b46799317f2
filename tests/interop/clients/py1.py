"""MCP client on the Python SDK 1.x (`mcp`)."""

from contextlib import asynccontextmanager

from common import on_message, run
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client


@asynccontextmanager
async def connect(url):
    async with streamable_http_client(url) as (read, write, _get_session_id):
        async with ClientSession(read, write, message_handler=on_message) as session:
            await session.initialize()
            yield session


run(connect)
