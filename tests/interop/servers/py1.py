"""MCP server on the Python SDK 1.x (`mcp`), low level.

--json         answers in JSON instead of event streams
--event-store  primes its event streams with event ids
--users        wants a bearer token, which is the name of its user; sessions are their users' own
"""

import contextlib

import anyio
from common import COUNTER, Subscribers, memory_event_store, options, serve
from mcp import types
from mcp.server.auth.middleware.bearer_auth import BearerAuthBackend, RequireAuthMiddleware
from mcp.server.auth.provider import AccessToken
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.routing import Route


class CounterServer(Server):
    """The SDK never declares `resources.subscribe`, whatever handlers it has."""

    def get_capabilities(self, *args):
        capabilities = super().get_capabilities(*args)
        capabilities.resources.subscribe = True
        return capabilities


args = options("json", "event-store", "users")
server = CounterServer("py1")
subscribers = Subscribers()
levels = {}


def session():
    return server.request_context.session


def session_id():
    return server.request_context.request.headers["mcp-session-id"]


def tool(name, **properties):
    return types.Tool(name=name, inputSchema={"type": "object", "properties": properties, "required": [*properties]})


@server.list_tools()
async def list_tools():
    return [
        tool("echo", text={"type": "string"}),
        tool("slow", seconds={"type": "number"}),
        tool("touch"),
        tool("level"),
    ]


@server.call_tool()
async def call_tool(name, arguments):
    if name == "echo":
        text = arguments["text"]
    elif name == "slow":
        await anyio.sleep(arguments["seconds"])
        text = "done"
    elif name == "touch":
        await subscribers.touch()
        text = "touched"
    else:
        text = levels.get(session_id(), "unset")
    return [types.TextContent(type="text", text=text)]


@server.list_resources()
async def list_resources():
    return [types.Resource(uri=COUNTER, name="counter")]


@server.subscribe_resource()
async def subscribe(uri):
    if str(uri) == COUNTER:
        subscribers.add(session_id(), session())


@server.unsubscribe_resource()
async def unsubscribe(uri):
    if str(uri) == COUNTER:
        subscribers.remove(session_id())


@server.set_logging_level()
async def set_level(level):
    levels[session_id()] = level


manager = StreamableHTTPSessionManager(
    server,
    json_response=args.json,
    event_store=memory_event_store() if args.event_store else None,
)


class Endpoint:
    async def __call__(self, scope, receive, send):
        await manager.handle_request(scope, receive, send)


@contextlib.asynccontextmanager
async def lifespan(_app):
    async with manager.run():
        yield


class Names:
    """The SDK's `TokenVerifier`."""

    async def verify_token(self, token):
        return AccessToken(token=token, client_id="interop", scopes=[], subject=token)


endpoint, middleware = Endpoint(), []
if args.users:
    endpoint = RequireAuthMiddleware(endpoint, required_scopes=[])
    middleware = [Middleware(AuthenticationMiddleware, backend=BearerAuthBackend(Names()))]
serve(Starlette(routes=[Route("/mcp", endpoint)], middleware=middleware, lifespan=lifespan), args)
