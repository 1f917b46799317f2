// What the TypeScript servers share: command line, session map, tools.
import { randomUUID } from 'node:crypto';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import * as z from 'zod';

const COUNTER = 'test://counter';

let standby = false;

/** The command line: `--port N`, `--standby` and the flags that the server supports. */
export function options(...flags) {
    const { values } = parseArgs({
        options: {
            port: { type: 'string' },
            ...Object.fromEntries(['standby', ...flags].map(flag => [flag, { type: 'boolean', default: false }]))
        }
    });
    standby = values.standby;
    return { ...values, port: Number(values.port) };
}

/** Ready when the server may listen: with `--standby`, after a line on standard input. */
export async function mayListen() {
    if (!standby) return;
    const input = createInterface({ input: process.stdin });
    input.on('close', () => process.exit(0));
    process.stdout.write('standing by\n');
    await new Promise(resolve => input.once('line', resolve));
}

/** Listens on 127.0.0.1, and says so. */
export async function listen(server, port) {
    process.on('SIGTERM', () => process.exit(0));
    await mayListen();
    server.listen(port, '127.0.0.1', () => console.log(`listening on http://127.0.0.1:${port}/mcp`));
}

/**
 * Serves every session with a transport of its own, as the SDK's examples do.
 * `open` makes a transport that is connected to a new MCP server.
 */
export function sessionMap(open, isInitializeRequest) {
    const transports = new Map();
    return async (req, res, body) => {
        const id = req.headers['mcp-session-id'];
        if (id && transports.has(id)) {
            await transports.get(id).handleRequest(req, res, body);
        } else if (id) {
            reply(res, 404, -32001, 'Session not found');
        } else if (isInitializeRequest(body)) {
            const transport = await open({
                sessionIdGenerator: randomUUID,
                onsessioninitialized: id => void transports.set(id, transport),
                onsessionclosed: id => void transports.delete(id)
            });
            await transport.handleRequest(req, res, body);
        } else {
            reply(res, 400, -32000, 'Bad Request: No valid session ID provided');
        }
    };
}

function reply(res, status, code, message) {
    const body = { jsonrpc: '2.0', error: { code, message }, id: null };
    res.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
}

export const capabilities = { logging: {}, resources: { subscribe: true } };

const subscribed = new Set(); // the MCP servers whose session has subscribed, one for each session

/** Gives an `McpServer` the tools and the resource that every server here has. */
export function addTools(mcp, onRequest) {
    const text = text => ({ content: [{ type: 'text', text }] });
    let level = 'unset';

    mcp.registerTool('echo', { inputSchema: z.object({ text: z.string() }) }, args => text(args.text));
    mcp.registerTool('slow', { inputSchema: z.object({ seconds: z.number() }) }, async ({ seconds }) => {
        await sleep(seconds * 1000);
        return text('done');
    });
    mcp.registerTool('touch', { inputSchema: z.object({}) }, async () => {
        for (const { server } of subscribed) await server.sendResourceUpdated({ uri: COUNTER });
        return text('touched');
    });
    mcp.registerTool('level', { inputSchema: z.object({}) }, () => text(level));
    mcp.registerResource('counter', COUNTER, {}, uri => ({ contents: [{ uri: uri.href, text: '0' }] }));

    onRequest('resources/subscribe', ({ params }) => {
        if (params.uri === COUNTER) subscribed.add(mcp);
        return {};
    });
    onRequest('resources/unsubscribe', ({ params }) => {
        if (params.uri === COUNTER) subscribed.delete(mcp);
        return {};
    });
    onRequest('logging/setLevel', ({ params }) => {
        level = params.level;
        return {};
    });
    mcp.server.onclose = () => subscribed.delete(mcp);
}
