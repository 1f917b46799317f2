"""MCP client on the Python SDK 2.x (`mcp`).

--legacy  initializes a session even with a server that speaks 2026-07-28
"""

import sys

from common import on_message, run
from mcp import Client

options = {"mode": "legacy"} if "--legacy" in sys.argv else {}
run(lambda url: Client(url, message_handler=on_message, **options))
