"""MCP server on FastMCP 4.

--json         answers in JSON instead of event streams
--event-store  primes its event streams with event ids
"""

import anyio
import mcp_types as types
from common import COUNTER, Subscribers, options, serve
from fastmcp import Context, FastMCP
from fastmcp.server.event_store import EventStore

args = options("json", "event-store")
subscribers = Subscribers()
levels = {}
mcp = FastMCP("fastmcp4")


@mcp.tool
async def echo(text: str) -> str:
    return text


@mcp.tool
async def slow(seconds: float) -> str:
    await anyio.sleep(seconds)
    return "done"


@mcp.tool
async def touch() -> str:
    await subscribers.touch()
    return "touched"


@mcp.tool
async def level(ctx: Context) -> str:
    return levels.get(ctx.session_id, "unset")


@mcp.resource(COUNTER)
async def counter() -> str:
    return "0"


# FastMCP has no subscriptions of its own; the SDK server below it has.
def session_id(ctx):
    return ctx.request.headers.get("mcp-session-id")


async def subscribe(ctx, params):
    if params.uri == COUNTER:
        subscribers.add(session_id(ctx), ctx.session)
    return types.EmptyResult()


async def unsubscribe(ctx, params):
    if params.uri == COUNTER:
        subscribers.remove(session_id(ctx))
    return types.EmptyResult()


async def set_level(ctx, params):
    levels[session_id(ctx)] = params.level
    return types.EmptyResult()


server = mcp._mcp_server
server.add_request_handler("resources/subscribe", types.SubscribeRequestParams, subscribe)
server.add_request_handler("resources/unsubscribe", types.UnsubscribeRequestParams, unsubscribe)
server.add_request_handler("logging/setLevel", types.SetLevelRequestParams, set_level)

app = mcp.http_app(path="/mcp", json_response=args.json, event_store=EventStore() if args.event_store else None)
serve(app, args)
