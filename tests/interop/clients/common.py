"""What the Python clients share: the line protocol of README.md."""

import asyncio
import json
import sys


def emit(**event):
    print(json.dumps(event), flush=True)


def emit_error(id, error):
    """A JSON-RPC error, or whatever else the SDK raises."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    detail = getattr(error, "error", None)
    emit(
        event="error",
        id=id,
        type=type(error).__name__,
        code=getattr(detail, "code", None),
        message=getattr(detail, "message", None) or str(error) or repr(error),
        data=getattr(detail, "data", None),
    )


async def on_message(message):
    """The `message_handler` of every SDK: notifications, and what the transport ran into."""
    if isinstance(message, Exception):
        emit(event="transport_error", type=type(message).__name__, message=str(message))
        return
    message = getattr(message, "root", message)
    if hasattr(message, "method"):
        params = message.params and message.params.model_dump(by_alias=True, mode="json", exclude_none=True)
        emit(event="notification", method=message.method, params=params)


async def execute(client, command):
    try:
        match command["do"]:
            case "call":
                result = await client.call_tool(command["tool"], command.get("args", {}))
                failed = getattr(result, "is_error", None) or getattr(result, "isError", None)
                emit(event="result", id=command["id"], text=result.content[0].text, **({"isError": True} if failed else {}))
            case "subscribe":
                await client.subscribe_resource(command["uri"])
                emit(event="result", id=command["id"])
            case "setLevel":
                await client.set_logging_level(command["level"])
                emit(event="result", id=command["id"])
    except Exception as error:
        emit_error(command["id"], error)


async def serve_commands(client):
    """Runs the commands on standard input at once as they come, until `close` or the end."""
    emit(event="connected")
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    running = set()
    try:
        while line := await lines.readline():
            command = json.loads(line)
            if command["do"] == "close":
                break
            task = asyncio.create_task(execute(client, command))
            running.add(task)
            task.add_done_callback(running.discard)
    finally:
        for task in running:
            task.cancel()


def run(connect):
    """`connect(url)` is an asynchronous context manager that brings the SDK's client."""

    async def main():
        async with connect(sys.argv[1]) as client:
            await serve_commands(client)

    try:
        asyncio.run(main())
    except Exception as error:
        emit_error(None, error)
        sys.exit(1)
    emit(event="closed")
