// MCP server on @modelcontextprotocol/sdk 1.x, with Express, like the SDK's own examples.
//   --json         answers in JSON instead of event streams
//   --event-store  primes its event streams with event ids
//   --single       one transport for the whole process instead of one for each session
import { randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import { InMemoryEventStore } from '@modelcontextprotocol/sdk/examples/shared/inMemoryEventStore.js';
import { createMcpExpressApp } from '@modelcontextprotocol/sdk/server/express.js';
import { McpServer } from '@modelcontextprotocol/sdk/server/mcp.js';
import { StreamableHTTPServerTransport } from '@modelcontextprotocol/sdk/server/streamableHttp.js';
import {
    isInitializeRequest,
    SetLevelRequestSchema,
    SubscribeRequestSchema,
    UnsubscribeRequestSchema
} from '@modelcontextprotocol/sdk/types.js';
import { addTools, capabilities, listen, options, sessionMap } from './common.mjs';

const { port, json, single, 'event-store': eventStore } = options('json', 'event-store', 'single');

const schemas = {
    'logging/setLevel': SetLevelRequestSchema,
    'resources/subscribe': SubscribeRequestSchema,
    'resources/unsubscribe': UnsubscribeRequestSchema
};

async function open(sessions) {
    const mcp = new McpServer({ name: 'ts1', version: '1.0.0' }, { capabilities });
    addTools(mcp, (method, handler) => mcp.server.setRequestHandler(schemas[method], handler));
    const transport = new StreamableHTTPServerTransport({
        enableJsonResponse: json,
        eventStore: eventStore ? new InMemoryEventStore() : undefined,
        ...sessions
    });
    await mcp.connect(transport);
    return transport;
}

let handle = sessionMap(open, isInitializeRequest);
if (single) {
    const transport = await open({ sessionIdGenerator: randomUUID });
    handle = (req, res, body) => transport.handleRequest(req, res, body);
}

const app = createMcpExpressApp();
app.all('/mcp', (req, res) => handle(req, res, req.body));
listen(createServer(app), port);
