"""What the Python servers share: command line, tools' parts, event store, HTTP server."""

import argparse
import os
import sys
import threading

import uvicorn

COUNTER = "test://counter"


def options(*flags):
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    for flag in ("standby", *flags):
        parser.add_argument(f"--{flag}", action="store_true")
    return parser.parse_args()


class Subscribers:
    """The sessions that have subscribed to the counter in this process, by session id."""

    def __init__(self):
        self._sessions = {}

    def add(self, id, session):
        self._sessions[id] = session

    def remove(self, id):
        self._sessions.pop(id, None)

    async def touch(self):
        """Notifies each, on its listening stream."""
        for id, session in list(self._sessions.items()):
            try:
                await session.send_resource_updated(COUNTER)
            except Exception:  # the session is over
                self.remove(id)


def memory_event_store():
    from mcp.server.streamable_http import EventMessage, EventStore

    class MemoryEventStore(EventStore):
        def __init__(self):
            self._events = []

        async def store_event(self, stream_id, message):
            self._events.append((stream_id, message))
            return str(len(self._events))

        async def replay_events_after(self, last_event_id, send_callback):
            last = int(last_event_id)
            if not 0 < last <= len(self._events):
                return None
            stream_id = self._events[last - 1][0]
            for number, (stream, message) in enumerate(self._events, 1):
                if number > last and stream == stream_id and message is not None:
                    await send_callback(EventMessage(message, str(number)))
            return stream_id

    return MemoryEventStore()


class _Server(uvicorn.Server):
    async def startup(self, sockets=None):
        await super().startup(sockets)
        if self.started:
            print(f"listening on http://127.0.0.1:{self.config.port}/mcp", flush=True)


def wait_for_a_line():
    """Until then it does not listen. When standard input ends, so does the server."""
    print("standing by", flush=True)
    if not sys.stdin.readline():
        sys.exit()

    def wait_for_the_end():
        sys.stdin.read()
        os._exit(0)

    threading.Thread(target=wait_for_the_end, daemon=True).start()


def serve(app, args):
    # Open event streams would keep it from exiting on SIGTERM.
    config = uvicorn.Config(app, host="127.0.0.1", port=args.port, log_level="warning", timeout_graceful_shutdown=1)
    if args.standby:
        config.load()
        wait_for_a_line()
    _Server(config).run()
