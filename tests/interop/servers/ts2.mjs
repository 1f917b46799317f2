// MCP server on @modelcontextprotocol/server 2.x and /node, on Node's own HTTP server.
//   --json         answers in JSON instead of event streams
//   --event-store  primes its event streams with event ids
//   --single       one transport for the whole process instead of one for each session
//   --stateless    the SDK's stateless handler: no sessions at all
import { randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import { json as readJson } from 'node:stream/consumers';
import { localhostHostValidation, NodeStreamableHTTPServerTransport, toNodeHandler } from '@modelcontextprotocol/node';
import { InMemoryEventStore } from '@modelcontextprotocol/sdk/examples/shared/inMemoryEventStore.js';
import { createMcpHandler, isInitializeRequest, McpServer } from '@modelcontextprotocol/server';
import { addTools, capabilities, listen, options, sessionMap } from './common.mjs';

const { port, json, single, stateless, 'event-store': eventStore } = options('json', 'event-store', 'single', 'stateless');

function newServer() {
    const mcp = new McpServer({ name: 'ts2', version: '1.0.0' }, { capabilities });
    addTools(mcp, (method, handler) => mcp.server.setRequestHandler(method, handler));
    return mcp;
}

async function open(sessions) {
    const transport = new NodeStreamableHTTPServerTransport({
        enableJsonResponse: json,
        eventStore: eventStore ? new InMemoryEventStore() : undefined,
        ...sessions
    });
    await newServer().connect(transport);
    return transport;
}

let handle = sessionMap(open, isInitializeRequest);
if (stateless) {
    handle = toNodeHandler(createMcpHandler(newServer));
} else if (single) {
    const transport = await open({ sessionIdGenerator: randomUUID });
    handle = (req, res, body) => transport.handleRequest(req, res, body);
}

const validateHost = localhostHostValidation();
const server = createServer(async (req, res) => {
    if (!validateHost(req, res)) return;
    if (req.url !== '/mcp') return void res.writeHead(404).end();
    await handle(req, res, req.method === 'POST' ? await readJson(req) : undefined);
});
listen(server, port);
