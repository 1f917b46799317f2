// What the TypeScript clients share: the line protocol of README.md. Both SDKs
// have the same names, so a client brings no more than its imports.
import { createInterface } from 'node:readline';

function emit(event) {
    process.stdout.write(JSON.stringify(event) + '\n');
}

function emitError(id, error) {
    const { code, message, data } = error;
    emit({ event: 'error', id, type: error.constructor.name, code, message, data });
}

export async function run(Client, StreamableHTTPClientTransport) {
    const client = new Client({ name: 'interop', version: '1.0.0' });
    const transport = new StreamableHTTPClientTransport(new URL(process.argv[2]));
    client.fallbackNotificationHandler = async ({ method, params }) => emit({ event: 'notification', method, params });
    client.onerror = error => emit({ event: 'transport_error', type: error.constructor.name, message: error.message });
    try {
        await client.connect(transport);
    } catch (error) {
        emitError(null, error);
        process.exit(1);
    }
    emit({ event: 'connected' });

    const commands = {
        async call({ tool, args }) {
            const result = await client.callTool({ name: tool, arguments: args });
            return { text: result.content[0]?.text, isError: result.isError };
        },
        subscribe: ({ uri }) => client.subscribeResource({ uri }).then(() => ({})),
        setLevel: ({ level }) => client.setLoggingLevel(level).then(() => ({}))
    };
    const execute = async command => {
        try {
            emit({ event: 'result', id: command.id, ...(await commands[command.do](command)) });
        } catch (error) {
            emitError(command.id, error);
        }
    };
    let closing = false;
    const close = async id => {
        if (closing) return;
        closing = true;
        await transport.terminateSession().catch(error => emitError(id, error));
        await client.close();
        emit({ event: 'closed' });
        process.exit(0);
    };
    createInterface({ input: process.stdin })
        .on('line', line => {
            const command = JSON.parse(line);
            command.do === 'close' ? close(command.id) : execute(command);
        })
        .on('close', () => close(null));
}
