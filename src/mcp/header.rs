//! Header names of the Streamable HTTP transport, and the questions asked of header values.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONTENT_ENCODING, CONTENT_TYPE},
};

/// `Mcp-Session-Id` (specification 2025-11-25, Transports, Session Management).
pub(crate) const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
/// `MCP-Protocol-Version` (specification 2025-11-25, Transports, Protocol Version Header).
pub(crate) const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
/// `Last-Event-ID` (specification 2025-11-25, Transports, Resumability and Redelivery).
pub(crate) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// `Mcp-Method`, which clients of revision 2026-07-28 send along.
pub(crate) const MCP_METHOD: HeaderName = HeaderName::from_static("mcp-method");

/// The values of `Mcp-Session-Id` and `MCP-Protocol-Version`.
///
/// A walk over all headers: to look up two such long names costs more than that, unless there are
/// dozens of them.
pub(crate) fn session_headers(headers: &HeaderMap) -> (Option<&HeaderValue>, Option<&HeaderValue>) {
    // The constants would be made anew, and dropped, for each comparison. These are known to be
    // constant only as long as nothing else refers to them: half the cost of the walk.
    static ID: HeaderName = SESSION_ID;
    static VERSION: HeaderName = PROTOCOL_VERSION;
    let (mut id, mut version) = (None, None);
    for (name, value) in headers {
        if *name == ID {
            id.get_or_insert(value);
        } else if *name == VERSION {
            version.get_or_insert(value);
        }
    }
    (id, version)
}

/// Every value of the two, to be changed; and whether it is a session id.
pub(crate) fn session_headers_mut(
    headers: &mut HeaderMap,
) -> impl Iterator<Item = (bool, &mut HeaderValue)> {
    static ID: HeaderName = SESSION_ID;
    static VERSION: HeaderName = PROTOCOL_VERSION;
    headers.iter_mut().filter_map(|(name, value)| {
        let is_id = *name == ID;
        (is_id || *name == VERSION).then_some((is_id, value))
    })
}

/// The revision that removed sessions. Revisions are dates, which sort as text.
const FIRST_WITHOUT_SESSIONS: &[u8] = b"2026-07-28";

/// Whether `version` names a revision without sessions (rule A2).
pub(crate) fn is_sessionless_version(version: &HeaderValue) -> bool {
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
    essence(headers).is_some_and(|essence| essence.eq_ignore_ascii_case(b"text/event-stream"))
        && !is_encoded(headers)
}

/// The media type without its parameters (RFC 9110, 8.3.1).
fn essence(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(CONTENT_TYPE)?.as_bytes();
    let end = memchr::memchr(b';', value).unwrap_or(value.len());
    Some(value[..end].trim_ascii())
}

/// Whether any coding was applied to the content: `identity` is none, however often it is named
/// (RFC 9110, 8.4 and 12.5.3).
fn is_encoded(headers: &HeaderMap) -> bool {
    let mut codings = headers
        .get_all(CONTENT_ENCODING)
        .iter()
        .flat_map(|codings| codings.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii);
    codings.any(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity"))
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
        assert!(is_event_stream(&content_type(
            "text/event-stream; charset=utf-8"
        )));
        assert!(!is_event_stream(&content_type("text/event-streams")));
    }

    #[test]
    fn g9_what_is_compressed_is_not_read() {
        let mut headers = content_type("text/event-stream");
        for plain in ["identity", "Identity", "", "identity, identity"] {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static(plain));
            assert!(is_event_stream(&headers), "{plain}");
        }
        headers.append(CONTENT_ENCODING, HeaderValue::from_static("br"));
        assert!(!is_event_stream(&headers));
        for encoded in ["gzip", "identity, gzip"] {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoded));
            assert!(!is_event_stream(&headers), "{encoded}");
        }
    }
}
