// @modelcontextprotocol/server-everything, started by its own entry point, with
// the command line and the `listening` line of the other servers.
import { Server } from 'node:net';
import { mayListen, options } from './common.mjs';

const { port } = options();
const url = `http://127.0.0.1:${port}/mcp`;

// It takes its port from the environment, listens on every interface, and logs to both outputs.
process.env.PORT = String(port);
const listen = Server.prototype.listen;
Server.prototype.listen = function (port, callback) {
    mayListen().then(() =>
        listen.call(this, Number(port), '127.0.0.1', () => {
            callback();
            process.stdout.write(`listening on ${url}\n`);
        })
    );
    return this;
};
console.log = console.error;
process.on('SIGTERM', () => process.exit(0));

process.argv[2] = 'streamableHttp';
await import('@modelcontextprotocol/server-everything/dist/index.js');
