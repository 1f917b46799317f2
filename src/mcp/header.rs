//! Header names of the Streamable HTTP transport, and the questions asked of header values.

use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST},
};

/// `Mcp-Session-Id` (specification 2025-11-25, Transports, Session Management).
pub(crate) const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
/// `MCP-Protocol-Version` (specification 2025-11-25, Transports, Protocol Version Header).
pub(crate) const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
/// `Last-Event-ID` (specification 2025-11-25, Transports, Resumability and Redelivery).
pub(crate) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// `Mcp-Method`, which clients of revision 2026-07-28 send along.
pub(crate) const MCP_METHOD: HeaderName = HeaderName::from_static("mcp-method");

/// What the layer goes by among the headers of a request.
///
/// Found in one walk over all headers: to look up names as long as these costs more than that,
/// each, unless there are dozens of headers.
#[derive(Clone, Copy, Default)]
pub(crate) struct RequestHeaders<'a> {
    pub(crate) session_id: Option<&'a HeaderValue>,
    pub(crate) version: Option<&'a HeaderValue>,
    /// Whether there is a `Host` (rule A3).
    pub(crate) has_host: bool,
    /// Whether there is a `Last-Event-ID` (rules G2, G4).
    pub(crate) has_last_event_id: bool,
}

impl<'a> RequestHeaders<'a> {
    pub(crate) fn of(headers: &'a HeaderMap) -> Self {
        // The constants would be made anew, and dropped, for each comparison. These are known to be
        // constant only as long as nothing else refers to them, and this is not inlined elsewhere:
        // half the cost of the walk.
        static ID: HeaderName = SESSION_ID;
        static VERSION: HeaderName = PROTOCOL_VERSION;
        static EVENT_ID: HeaderName = LAST_EVENT_ID;
        let mut found = Self::default();
        for (name, value) in headers {
            if *name == HOST {
                found.has_host = true;
            } else if *name == ID {
                found.session_id.get_or_insert(value);
            } else if *name == VERSION {
                found.version.get_or_insert(value);
            } else if *name == EVENT_ID {
                found.has_last_event_id = true;
            }
        }
        found
    }

    /// Whether the version is one without sessions (rule A2).
    #[inline]
    pub(crate) fn is_sessionless(&self) -> bool {
        self.version.is_some_and(is_sessionless_version)
    }
}

/// What the layer goes by among the headers of an answer, found in one walk.
#[derive(Clone, Copy, Default)]
pub(crate) struct AnswerHeaders {
    pub(crate) has_session_id: bool,
    pub(crate) is_event_stream: bool,
    /// Whether there is a `Content-Length`.
    pub(crate) has_length: bool,
}

impl AnswerHeaders {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        static ID: HeaderName = SESSION_ID;
        let (mut has_session_id, mut content_type, mut is_encoded) = (false, None, false);
        let mut has_length = false;
        for (name, value) in headers {
            if *name == CONTENT_TYPE {
                content_type.get_or_insert(value);
            } else if *name == CONTENT_ENCODING {
                is_encoded |= encodes(value);
            } else if *name == CONTENT_LENGTH {
                has_length = true;
            } else if *name == ID {
                has_session_id = true;
            }
        }
        Self {
            has_session_id,
            is_event_stream: content_type.is_some_and(names_event_stream) && !is_encoded,
            has_length,
        }
    }
}

/// Shows every value of the two to be changed, and whether it is a session id.
pub(crate) fn each_session_header(
    headers: &mut HeaderMap,
    // Not generic, so that the names are constants here, too.
    each: &mut dyn FnMut(bool, &mut HeaderValue),
) {
    static ID: HeaderName = SESSION_ID;
    static VERSION: HeaderName = PROTOCOL_VERSION;
    for (name, value) in headers {
        if *name == ID {
            each(true, value);
        } else if *name == VERSION {
            each(false, value);
        }
    }
}

/// The revision that removed sessions. Revisions are dates, which sort as text.
const FIRST_WITHOUT_SESSIONS: &[u8] = b"2026-07-28";

/// Whether `version` names a revision without sessions (rule A2).
fn is_sessionless_version(version: &HeaderValue) -> bool {
    let version = version.as_bytes();
    version.len() == FIRST_WITHOUT_SESSIONS.len()
        && version[0].is_ascii_digit()
        && version >= FIRST_WITHOUT_SESSIONS
}

/// Whether the content is JSON, by media type essence: `application/json` or any `…+json`. What is
/// encoded, compressed above all, cannot be read as that.
pub(crate) fn is_json(headers: &HeaderMap) -> bool {
    essence(headers).is_some_and(|essence| {
        essence.eq_ignore_ascii_case(b"application/json")
            || (essence.len() >= 5 && essence[essence.len() - 5..].eq_ignore_ascii_case(b"+json"))
    }) && !is_encoded(headers)
}

/// Whether the content is an event stream, by media type essence, and not encoded.
pub(crate) fn is_event_stream(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(names_event_stream) && !is_encoded(headers)
}

/// Whether an answer with this status has no content, whatever its headers say (RFC 9110, 15.3.5,
/// 15.3.6), or, with 202, none that is the answer (specification 2025-11-25, Transports, Sending
/// Messages to the Server).
pub(crate) fn carries_nothing(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::ACCEPTED | StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT
    )
}

/// Whether a media type is that of event streams. Nearly every other is known by its beginning.
fn names_event_stream(content_type: &HeaderValue) -> bool {
    const NAME: &[u8] = b"text/event-stream";
    let value = content_type.as_bytes().trim_ascii_start();
    let name = value.get(..NAME.len());
    name.is_some_and(|name| name == NAME || name.eq_ignore_ascii_case(NAME)) && {
        let rest = value[NAME.len()..].trim_ascii_start();
        rest.is_empty() || rest.starts_with(b";")
    }
}

/// The media type without its parameters (RFC 9110, 8.3.1).
fn essence(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(CONTENT_TYPE)?.as_bytes();
    let end = memchr::memchr(b';', value).unwrap_or(value.len());
    Some(value[..end].trim_ascii())
}

fn is_encoded(headers: &HeaderMap) -> bool {
    headers.get_all(CONTENT_ENCODING).iter().any(encodes)
}

/// Whether any coding was applied to the content: `identity` is none, however often it is named
/// (RFC 9110, 8.4 and 12.5.3).
fn encodes(codings: &HeaderValue) -> bool {
    let codings = codings.as_bytes().split(|byte| *byte == b',');
    codings
        .map(<[u8]>::trim_ascii)
        .any(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content_type(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(value))])
    }

    #[test]
    fn a2_versions_from_2026_07_28_have_no_sessions() {
        for (version, sessionless) in [
            ("2025-03-26", false),
            ("2025-11-25", false),
            ("2026-07-27", false),
            ("2026-07-28", true),
            ("2027-01-01", true),
            ("draft-2027", false),
            ("", false),
        ] {
            let value = HeaderValue::from_static(version);
            assert_eq!(is_sessionless_version(&value), sessionless, "{version}");
        }
    }

    #[test]
    fn e6_media_types_count_by_their_essence() {
        assert!(is_json(&content_type("application/json")));
        assert!(is_json(&content_type("Application/JSON ; charset=utf-8")));
        assert!(is_json(&content_type("application/vnd.api+json")));
        assert!(!is_json(&content_type("application/jsonl")));
        assert!(!is_json(&HeaderMap::new()));
        for (content_type, streams) in [
            ("text/event-stream", true),
            ("text/event-stream; charset=utf-8", true),
            (" Text/Event-Stream ;charset=utf-8", true),
            ("text/event-streams", false),
            ("text/event-stream x", false),
            ("text/event", false),
            // As long.
            ("application/jsonl", false),
            ("", false),
        ] {
            let headers = self::content_type(content_type);
            assert_eq!(is_event_stream(&headers), streams, "{content_type}");
            let of_answer = AnswerHeaders::of(&headers).is_event_stream;
            assert_eq!(of_answer, streams, "{content_type}");
        }
    }

    #[test]
    fn g9_what_is_compressed_is_not_read() {
        let mut headers = content_type("text/event-stream");
        for plain in ["identity", "Identity", "", "identity, identity"] {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static(plain));
            assert!(is_event_stream(&headers), "{plain}");
            assert!(AnswerHeaders::of(&headers).is_event_stream, "{plain}");
        }
        headers.append(CONTENT_ENCODING, HeaderValue::from_static("br"));
        assert!(!is_event_stream(&headers) && !AnswerHeaders::of(&headers).is_event_stream);
        for encoded in ["gzip", "identity, gzip"] {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoded));
            assert!(!is_event_stream(&headers), "{encoded}");
        }
    }
}
