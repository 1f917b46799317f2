// MCP client on @modelcontextprotocol/client 2.x.
import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';
import { run } from './common.mjs';

await run(Client, StreamableHTTPClientTransport);
