"""MCP server on the Python SDK 2.x (`mcp`), low level.

--json         answers in JSON instead of event streams
--event-store  primes its event streams with event ids
"""

import anyio
import mcp_types as types
from common import COUNTER, Subscribers, memory_event_store, options, serve
from mcp.server.lowlevel import Server

args = options("json", "event-store")
subscribers = Subscribers()
levels = {}


def session_id(ctx):
    return ctx.request.headers.get("mcp-session-id")


def tool(name, **properties):
    schema = {"type": "object", "properties": properties, "required": [*properties]}
    return types.Tool(name=name, input_schema=schema)


async def list_tools(ctx, params):
    tools = [
        tool("echo", text={"type": "string"}),
        tool("slow", seconds={"type": "number"}),
        tool("touch"),
        tool("level"),
    ]
    return types.ListToolsResult(tools=tools)


async def call_tool(ctx, params):
    if params.name == "echo":
        text = params.arguments["text"]
    elif params.name == "slow":
        await anyio.sleep(params.arguments["seconds"])
        text = "done"
    elif params.name == "touch":
        await subscribers.touch()
        text = "touched"
    else:
        text = levels.get(session_id(ctx), "unset")
    return types.CallToolResult(content=[types.TextContent(text=text)])


async def list_resources(ctx, params):
    return types.ListResourcesResult(resources=[types.Resource(uri=COUNTER, name="counter")])


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


server = Server(
    "py2",
    on_list_tools=list_tools,
    on_call_tool=call_tool,
    on_list_resources=list_resources,
    on_subscribe_resource=subscribe,
    on_unsubscribe_resource=unsubscribe,
    on_set_logging_level=set_level,
)
app = server.streamable_http_app(
    json_response=args.json,
    event_store=memory_event_store() if args.event_store else None,
)
serve(app, args)
