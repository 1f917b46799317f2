//! The verdicts that the crate brings along (rules D2, D3, D9).

use std::borrow::Cow;

use http::{
    Method, StatusCode,
    header::{HeaderValue, WWW_AUTHENTICATE},
};
use serde_json::value::RawValue;

use self::Place::{Body, ErrorMessage};
use super::{
    Classify, HttpAnswer, Id, Message, MessageReader, Verdict, header::is_event_stream,
    lenient_text, members, session_words::speaks_of_session, string,
};

/// The default: 404 as the specification has it, and the servers known to answer otherwise.
///
/// - 404 is [`Expired`](Verdict::Expired), whatever its body (specification 2025-11-25,
///   Transports, Session Management), except that a JSON-RPC error −32601 with the request's own id
///   means that the method is unknown, and the session [`Alive`](Verdict::Alive).
/// - A few texts prove it, too: a 400 whose JSON-RPC error message contains
///   `No valid session ID provided` (servers made from the TypeScript SDK's example) or
///   `Server not initialized` (TypeScript servers with one transport per process), and a 500 that
///   contains `Session service terminated` (rmcp, while a handler of the expired session still
///   runs).
/// - 404, 400 and 500 to a GET are [`Unsure`](Verdict::Unsure): servers without a listening stream
///   answer it with many a status.
/// - 400, 401, 403, 410, 500 and 503 are unsure if their body or challenge speaks of a session that
///   is not found, unknown, invalid, expired, terminated or missing. So is a 401 to the very
///   `authorization` that the session was made with: some servers keep their authentication in the
///   session.
///
/// Everything else is alive.
#[derive(Clone, Copy, Debug, Default)]
pub struct Compatible;

/// The letter of the specification: 404 is [`Expired`](Verdict::Expired), nothing else is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Strict;

/// What a server answers to a session that it does not know, other than 404.
struct KnownServer {
    status: u16,
    place: Place,
    /// Is in no answer to a session that lives.
    text: &'static str,
}

/// Where a text is looked for.
enum Place {
    /// The message of the JSON-RPC error that the body is.
    ErrorMessage,
    /// Anywhere in the body.
    Body,
}

/// The servers known to answer otherwise than the specification has it, a line for each.
const KNOWN_SERVERS: [KnownServer; 3] = [
    // Servers made from the TypeScript SDK's example, server-everything among them.
    known(400, ErrorMessage, "No valid session ID provided"),
    // The TypeScript SDK with one transport per process.
    known(400, ErrorMessage, "Server not initialized"),
    // rmcp, while a handler of the expired session still runs.
    known(500, Body, "Session service terminated"),
];

const fn known(status: u16, place: Place, text: &'static str) -> KnownServer {
    KnownServer {
        status,
        place,
        text,
    }
}

/// What may be about the session, if the answer says so or the request was a GET (rule D9).
const SUSPICIOUS: [StatusCode; 6] = [
    StatusCode::BAD_REQUEST,
    StatusCode::UNAUTHORIZED,
    StatusCode::FORBIDDEN,
    StatusCode::GONE,
    StatusCode::INTERNAL_SERVER_ERROR,
    StatusCode::SERVICE_UNAVAILABLE,
];

impl Classify for Compatible {
    fn classify(&self, answer: &HttpAnswer<'_>) -> Verdict {
        // As lenient clients read it.
        let body = lenient_text(answer.body());
        let answer = &answer.with_body(body.as_bytes());
        let (status, get) = (answer.status(), *answer.method() == Method::GET);
        if KNOWN_SERVERS.iter().any(|known| known.answers(answer)) {
            return Verdict::Expired;
        }
        let unsure = match status {
            StatusCode::NOT_FOUND if !get => {
                return match is_method_not_found(answer) {
                    true => Verdict::Alive,
                    false => Verdict::Expired,
                };
            }
            StatusCode::NOT_FOUND => true,
            StatusCode::BAD_REQUEST | StatusCode::INTERNAL_SERVER_ERROR if get => true,
            StatusCode::UNAUTHORIZED if answer.same_authorization() => true,
            _ => {
                SUSPICIOUS.contains(&status)
                    && (speaks_of_session(answer.body()) || challenge_speaks_of_session(answer))
            }
        };
        if unsure {
            Verdict::Unsure
        } else {
            Verdict::Alive
        }
    }

    fn examines(&self, status: StatusCode) -> bool {
        status == StatusCode::NOT_FOUND
            || SUSPICIOUS.contains(&status)
            || KNOWN_SERVERS.iter().any(|known| status == known.status)
    }
}

impl Classify for Strict {
    fn classify(&self, answer: &HttpAnswer<'_>) -> Verdict {
        match answer.status() {
            StatusCode::NOT_FOUND => Verdict::Expired,
            _ => Verdict::Alive,
        }
    }

    fn examines(&self, status: StatusCode) -> bool {
        status == StatusCode::NOT_FOUND
    }
}

impl KnownServer {
    fn answers(&self, answer: &HttpAnswer<'_>) -> bool {
        answer.status() == self.status
            && match self.place {
                Body => memchr::memmem::find(answer.body(), self.text.as_bytes()).is_some(),
                ErrorMessage => error_message(answer)
                    .and_then(text)
                    .is_some_and(|message| message.contains(self.text)),
            }
    }
}

/// The message of the JSON-RPC error that the body is.
fn error_message<'a>(answer: &HttpAnswer<'a>) -> Option<&'a RawValue> {
    let error = Message::single(answer.body())?.error()?;
    let [message] = members(error.get(), ["message"])?;
    message
}

/// The text of a JSON string; if that is no Unicode, as it is written.
fn text(value: &RawValue) -> Option<Cow<'_, str>> {
    let written = || value.get().starts_with('"').then(|| value.get().into());
    string(value).or_else(written)
}

/// Whether this is JSON-RPC's "method not found" to this very request. Such a 404 comes from a
/// server that knows the session (or has none) and lacks the method.
fn is_method_not_found(answer: &HttpAnswer<'_>) -> bool {
    let Some(asked) = asked(answer) else {
        return false;
    };
    let mut is_it = false;
    let look = |message: &[u8]| is_it |= says_not_found(message, &asked);
    match MessageReader::new(answer.headers(), answer.body().len()) {
        Some(mut events) if is_event_stream(answer.headers()) => events.read(answer.body(), look),
        _ => is_it = says_not_found(answer.body(), &asked),
    }
    is_it
}

fn says_not_found(message: &[u8], asked: &Id) -> bool {
    let code = |message: &Message<'_>| {
        let [code] = members(message.error()?.get(), ["code"])?;
        serde_json::from_str::<f64>(code?.get()).ok()
    };
    Message::single(message)
        .is_some_and(|message| message.answers(asked) && code(&message) == Some(-32601.0))
}

/// The id of the one request that was answered. A response has one, too, and no method that could
/// be unknown.
fn asked(answer: &HttpAnswer<'_>) -> Option<Id> {
    let Some(request) = answer.request() else {
        return answer.request_id().cloned();
    };
    let request = lenient_text(request);
    let message = Message::single(request.as_bytes())?;
    message.parsed_id().filter(|_| message.is_request())
}

fn challenge_speaks_of_session(answer: &HttpAnswer<'_>) -> bool {
    let challenges = answer.headers().get_all(WWW_AUTHENTICATE);
    challenges
        .iter()
        .map(HeaderValue::as_bytes)
        .any(speaks_of_session)
}

#[cfg(test)]
mod tests {
    use http::Response;

    use super::*;

    const REQUEST: &[u8] = br#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;

    fn to(method: Method, status: u16, body: &str) -> Verdict {
        let response = Response::builder().status(status).body(body).unwrap();
        let message = (method == Method::POST).then_some(REQUEST);
        Compatible.classify(&HttpAnswer::new(&method, message, &response))
    }

    fn post(status: u16, body: &str) -> Verdict {
        to(Method::POST, status, body)
    }

    fn rpc(message: &str) -> String {
        format!(r#"{{"jsonrpc":"2.0","error":{{"code":-32000,"message":"{message}"}}}}"#)
    }

    #[test]
    fn d2_a_404_is_expiry_whatever_its_body() {
        for body in [
            "",
            "Not Found: Session not found",
            "<html>404</html>",
            r#"{"jsonrpc":"2.0","error":{"code":-32001,"message":"Session not found"},"id":null}"#,
            r#"{"jsonrpc":"2.0","error":{"code":-32600,"message":"x"},"id":"server-error"}"#,
            r#"{"jsonrpc":"2.0","error":{"code":-32001,"message":"Session not found"},"id":1}"#,
            r#"{"jsonrpc":"2.0","error":{"code":-32601,"message":"x"},"id":2}"#,
            r#"{"jsonrpc":"2.0","error":{"code":-32601,"message":"x"},"id":"1"}"#,
            r#"{"jsonrpc":"2.0","error":{"code":-32601,"message":"x"},"id":null}"#,
        ] {
            assert_eq!(post(404, body), Verdict::Expired, "{body}");
        }
    }

    #[test]
    fn c4_method_not_found_with_the_requests_own_id_is_alive_however_that_is_spelled() {
        for body in [
            r#"{"jsonrpc":"2.0","error":{"code":-32601,"message":"x"},"id":1}"#,
            r#"{"jsonrpc":"2.0","error":{"code":-32601.0,"message":"x"},"id":1.0}"#,
            r#"{"\u0069d":1e0,"error":{"c\u006fde":-32601}}"#,
            r#"{"id":1,"error":{"code":-32601,"data":["\ud83d",1e999]}}"#,
        ] {
            assert_eq!(post(404, body), Verdict::Alive, "{body}");
        }
    }

    #[test]
    fn d2_method_not_found_is_alive_where_a_text_is_no_utf_8() {
        let [request, body] = [
            &b"{\"id\":1,\"method\":\"x\xff\"}"[..],
            b"{\"id\":1,\"error\":{\"code\":-32601,\"message\":\"no x\xff\"}}",
        ];
        for request in [request, REQUEST] {
            let response = Response::builder().status(404).body(body).unwrap();
            let answer = HttpAnswer::new(&Method::POST, Some(request), &response);
            assert_eq!(Compatible.classify(&answer), Verdict::Alive);
        }
    }

    #[test]
    fn d2_a_response_has_no_method_that_could_be_unknown() {
        let body = r#"{"error":{"code":-32601,"message":"x"},"id":1}"#;
        let response = Response::builder().status(404).body(body).unwrap();
        for message in [r#"{"id":1,"result":{}}"#, r#"{"id":1,"error":{"code":0}}"#] {
            let answer = HttpAnswer::new(&Method::POST, Some(message.as_bytes()), &response);
            assert_eq!(Compatible.classify(&answer), Verdict::Expired, "{message}");
        }
    }

    #[test]
    fn d2_known_texts_prove_expiry() {
        for (status, body) in [
            (400, rpc("Bad Request: No valid session ID provided")),
            (400, rpc("Bad Request: Server not initialized")),
            (
                500,
                "Encounter an error when get session: Session error: Session service terminated"
                    .to_owned(),
            ),
        ] {
            assert_eq!(post(status, &body), Verdict::Expired, "{body}");
            assert_eq!(to(Method::GET, status, &body), Verdict::Expired, "{body}");
            // The text proves it with that status alone.
            assert_ne!(post(502, &body), Verdict::Expired, "{body}");
        }
    }

    #[test]
    fn d2_a_404_400_or_500_to_a_get_is_unsure() {
        for (status, body) in [
            (404, ""),
            (400, "Invalid or missing session ID"),
            (400, ""),
            (500, "oops"),
        ] {
            assert_eq!(to(Method::GET, status, body), Verdict::Unsure, "{status}");
        }
        for status in [401, 403, 405, 409, 410, 429, 502, 503] {
            assert_eq!(to(Method::GET, status, ""), Verdict::Alive, "{status}");
        }
        for status in [400, 500] {
            assert_eq!(post(status, ""), Verdict::Alive, "{status}");
        }
    }

    #[test]
    fn d9_servers_that_say_it_otherwise_are_suspected() {
        for (status, body) in [
            // rmcp before rust-sdk issue 689.
            (401, "Unauthorized: Session not found".to_owned()),
            // mcp-go before pull request 689.
            (400, "invalid session id".to_owned()),
            // affine-mcp-server.
            (
                400,
                rpc("Bad Request: No valid session ID or not an initialize request"),
            ),
            // anubis-mcp.
            (400, rpc("No active session")),
            // neotoma.
            (503, rpc("MCP session is unknown on this API instance")),
            (410, r#"{"error":"SESSION_EXPIRED"}"#.to_owned()),
            (403, "Your session was terminated.".to_owned()),
            (500, "missing session".to_owned()),
        ] {
            assert_eq!(post(status, &body), Verdict::Unsure, "{body}");
            assert_eq!(post(502, &body), Verdict::Alive, "{body}");
        }
        for status in [400, 401, 403, 410, 500, 503] {
            assert!(Compatible.examines(StatusCode::from_u16(status).unwrap()));
            for body in ["", "session", "not found", "Too many open sessions"] {
                assert_eq!(post(status, body), Verdict::Alive, "{status} {body}");
            }
        }
    }

    #[test]
    fn d9_a_challenge_may_speak_of_the_session() {
        let challenge = |challenge| {
            let response = Response::builder()
                .status(401)
                .header(WWW_AUTHENTICATE, "Bearer")
                .header(WWW_AUTHENTICATE, challenge)
                .body("")
                .unwrap();
            Compatible.classify(&HttpAnswer::new(&Method::POST, Some(REQUEST), &response))
        };
        let said = r#"Bearer error="invalid_token", error_description="Session not found""#;
        assert_eq!(challenge(said), Verdict::Unsure);
        assert_eq!(challenge(r#"Bearer error="invalid_token""#), Verdict::Alive);
    }

    #[test]
    fn d9_a_401_to_the_credentials_that_made_the_session_is_unsure() {
        for (status, same, verdict) in [
            (401, true, Verdict::Unsure),
            (401, false, Verdict::Alive),
            (403, true, Verdict::Alive),
        ] {
            let response = Response::builder().status(status).body("").unwrap();
            let answer = HttpAnswer::new(&Method::POST, Some(REQUEST), &response)
                .with_same_authorization(same);
            assert_eq!(Compatible.classify(&answer), verdict, "{status} {same}");
        }
    }

    #[test]
    fn d3_strict_knows_the_404_alone() {
        let response = Response::builder().status(404).body("").unwrap();
        let answer = HttpAnswer::new(&Method::GET, None, &response);
        assert_eq!(Strict.classify(&answer), Verdict::Expired);
        for status in 400..600 {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(Strict.examines(status), status == StatusCode::NOT_FOUND);
        }
    }

    #[test]
    fn d2_the_statuses_of_all_known_servers_are_examined() {
        for known in KNOWN_SERVERS {
            let status = StatusCode::from_u16(known.status).unwrap();
            assert!(Compatible.examines(status), "{}", known.text);
        }
        for status in [405, 406, 409, 415, 429, 502, 504] {
            assert!(!Compatible.examines(StatusCode::from_u16(status).unwrap()));
        }
    }
}
