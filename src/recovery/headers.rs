//! Which headers of a request describe its caller, and so go out with the layer's own requests
//! (rule E5).

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{
        ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, COOKIE, EXPECT, PROXY_AUTHORIZATION,
        RANGE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
    },
};

use crate::mcp::LAST_EVENT_ID;

/// The headers of a request less those that describe a message or a connection.
pub(crate) fn callers_headers(headers: &HeaderMap) -> HeaderMap {
    let named: Vec<&[u8]> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .collect();
    let is_named = |name: &HeaderName| {
        let name = name.as_str().as_bytes();
        named.iter().any(|it| it.eq_ignore_ascii_case(name))
    };
    let mut own = HeaderMap::new();
    for (name, value) in headers {
        if !describes_message(name) && !describes_connection(name) && !is_named(name) {
            let mut value = value.clone();
            // Whether its caller said so or not: here it is the layer that writes it (rule L2).
            if [AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION].contains(name) {
                value.set_sensitive(true);
            }
            own.append(name.clone(), value);
        }
    }
    own
}

/// What describes one message: its content, conditions on it, digests and signatures of it.
fn describes_message(name: &HeaderName) -> bool {
    const PREFIXES: [&str; 3] = ["content-", "if-", "mcp-"];
    const NAMES: [HeaderName; 10] = [
        ACCEPT,
        ACCEPT_ENCODING,
        EXPECT,
        RANGE,
        LAST_EVENT_ID,
        HeaderName::from_static("digest"),
        HeaderName::from_static("idempotency-key"),
        HeaderName::from_static("repr-digest"),
        HeaderName::from_static("signature"),
        HeaderName::from_static("signature-input"),
    ];
    let text = name.as_str();
    PREFIXES.iter().any(|prefix| text.starts_with(prefix)) || NAMES.contains(name)
}

/// What describes one connection (RFC 9110, 7.6.1), or the framing on it.
fn describes_connection(name: &HeaderName) -> bool {
    const NAMES: [HeaderName; 7] = [
        CONNECTION,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
    ];
    NAMES.contains(name)
}

/// A header's only value, as rules that compare credentials go by it.
pub(crate) fn authorization(headers: &HeaderMap) -> Option<&HeaderValue> {
    headers.get(AUTHORIZATION)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e5_what_describes_a_message_or_a_connection_stays_behind() {
        let mut headers = HeaderMap::new();
        let stays = [
            "accept",
            "accept-encoding",
            "content-type",
            "content-digest",
            "digest",
            "expect",
            "idempotency-key",
            "if-none-match",
            "keep-alive",
            "last-event-id",
            "mcp-method",
            "mcp-session-id",
            "proxy-connection",
            "range",
            "repr-digest",
            "signature",
            "signature-input",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
            "x-hop",
        ];
        let goes = [
            "authorization",
            "cookie",
            "host",
            "user-agent",
            "x-api-key",
            "x-hope",
        ];
        for name in stays.iter().chain(&goes) {
            headers.insert(*name, HeaderValue::from_static("value"));
        }
        headers.insert(CONNECTION, HeaderValue::from_static("close, X-Hop"));

        let own = callers_headers(&headers);

        let mut names: Vec<_> = own.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, goes);
        // L2: what is a secret is marked as one.
        for (name, value) in &own {
            let is_secret = ["authorization", "cookie"].contains(&name.as_str());
            assert_eq!(value.is_sensitive(), is_secret, "{name}");
        }
    }
}
