//! How real servers answer, as it was measured.

use serde_json::{Value, json};

use crate::{Reply, json_reply, reply, sse};

/// How a server behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// TypeScript SDK 1.x and 2.x with a session map.
    TypeScript,
    /// The same with `enableJsonResponse`.
    TypeScriptJson,
    /// TypeScript with one transport per process: 400 `Server not initialized`.
    TypeScriptSingle,
    /// `@modelcontextprotocol/server-everything`: 400 `No valid session ID provided`.
    Everything,
    /// Python SDK 1.x.
    Python1,
    /// Python SDK 2.x and fastmcp 4.
    Python2,
    /// rmcp.
    Rmcp,
    /// C#: 404 with the request's own id.
    CSharp,
    /// Go: 404 text; any session-less POST mints a session.
    Go,
    /// Java servlet: 404 with something that is no JSON-RPC.
    Java,
    /// Kotlin.
    Kotlin,
    /// PHP.
    Php,
    /// Ruby.
    Ruby,
    /// A 404 with nothing in it at all.
    Bare,
    /// A proxy's 404 page.
    Html,
}

impl Profile {
    pub const ALL: [Profile; 15] = [
        Profile::TypeScript,
        Profile::TypeScriptJson,
        Profile::TypeScriptSingle,
        Profile::Everything,
        Profile::Python1,
        Profile::Python2,
        Profile::Rmcp,
        Profile::CSharp,
        Profile::Go,
        Profile::Java,
        Profile::Kotlin,
        Profile::Php,
        Profile::Ruby,
        Profile::Bare,
        Profile::Html,
    ];

    /// The answer to a message of a session that the server does not know.
    pub fn unknown_session(self, id: &Value) -> Reply {
        let rpc = |status, code: i64, message: &str, id: Value| {
            json_reply(
                status,
                &json!({"jsonrpc": "2.0", "error": {"code": code, "message": message}, "id": id}),
            )
        };
        match self {
            Profile::TypeScript | Profile::TypeScriptJson => {
                rpc(404, -32001, "Session not found", Value::Null)
            }
            Profile::TypeScriptSingle => rpc(
                400,
                -32000,
                "Bad Request: Server not initialized",
                Value::Null,
            ),
            Profile::Everything => json_reply(
                400,
                &json!({"jsonrpc": "2.0", "error": {"code": -32000, "message": "Bad Request: No valid session ID provided"}}),
            ),
            Profile::Python1 => rpc(404, -32600, "Session not found", json!("server-error")),
            Profile::Python2 => rpc(404, -32600, "Session not found", Value::Null),
            Profile::Rmcp => reply(404, None, "Not Found: Session not found"),
            Profile::CSharp => rpc(404, -32001, "Session not found", id.clone()),
            Profile::Go => reply(
                404,
                Some("text/plain; charset=utf-8"),
                "session not found\n",
            ),
            Profile::Java => json_reply(
                404,
                &json!({"code": -32603, "message": "Session not found", "data": null}),
            ),
            Profile::Kotlin => rpc(404, -32000, "Session not found", Value::Null),
            Profile::Php => rpc(404, -32600, "Session not found or has expired.", json!("")),
            Profile::Ruby => rpc(404, -32600, "Session not found", Value::Null),
            Profile::Bare => reply(404, None, ""),
            Profile::Html => reply(404, Some("text/html"), "<html><h1>Not Found</h1></html>"),
        }
    }

    /// A JSON-RPC message as the answer to a request.
    pub fn answer(self, message: &Value) -> Reply {
        let id = &message["id"];
        let result = &message["result"];
        match self {
            Profile::TypeScriptJson | Profile::Java => json_reply(200, message),
            // The id comes last.
            Profile::TypeScript | Profile::TypeScriptSingle => sse(&format!(
                "event: message\ndata: {{\"result\":{result},\"jsonrpc\":\"2.0\",\"id\":{id}}}\n\n"
            )),
            Profile::Everything => sse(&format!(
                "id: p_1\nretry: 1500\ndata: \n\nevent: message\nid: p_2\ndata: {{\"result\":{result},\"jsonrpc\":\"2.0\",\"id\":{id}}}\n\n"
            )),
            Profile::Python1 | Profile::Python2 => {
                sse(&format!("event: message\r\ndata: {message}\r\n\r\n"))
            }
            Profile::Rmcp => sse(&format!(
                "data: \nid: 0\nretry: 3000\n\ndata: {message}\nid: 1\n\n"
            )),
            _ => sse(&format!("event: message\ndata: {message}\n\n")),
        }
    }

    pub(crate) fn accepted(self) -> Reply {
        match self {
            Profile::Python1 | Profile::Python2 => reply(202, Some("application/json"), ""),
            Profile::Rmcp => reply(202, None, ""),
            Profile::Go => reply(202, Some("text/plain"), "Accepted"),
            Profile::CSharp => json_reply(202, &Value::Null),
            _ => reply(202, None, ""),
        }
    }

    pub(crate) fn deleted(self) -> Reply {
        match self {
            Profile::Rmcp => reply(202, None, ""),
            Profile::Go => reply(204, None, ""),
            _ => reply(200, None, ""),
        }
    }

    pub(crate) fn echoes_id(self) -> bool {
        !matches!(self, Profile::Rmcp)
    }
}
