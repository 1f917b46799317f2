//! Headers that end at the proxy.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{
        ACCEPT_ENCODING, CONNECTION, CONTENT_LENGTH, EXPECT, FORWARDED, HOST, PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
    },
};

static KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
static PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Makes a client's headers those of the proxy's own request. `trusted` passes, whatever its name.
pub fn to_upstream(headers: &mut HeaderMap, trusted: Option<&HeaderName>) {
    drop_hop_by_hop(headers);
    // The HTTP client sets the upstream's.
    headers.remove(HOST);
    // hyper has sent the client its 100 (Continue).
    headers.remove(EXPECT);
    // The layer reads what passes, so it must not be compressed.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    // A server takes them for a proxy's word, and a client can say anything.
    let claims: Vec<HeaderName> = headers
        .keys()
        .filter(|name| *name == FORWARDED || name.as_str().starts_with("x-forwarded-"))
        .filter(|name| Some(*name) != trusted)
        .cloned()
        .collect();
    for name in claims {
        headers.remove(name);
    }
}

/// Makes the upstream's headers those of the proxy's answer.
pub fn from_upstream(headers: &mut HeaderMap) {
    // With both, the chunks tell where the body ends (RFC 9112, 6.3), and the length may be a lie.
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
    }
    drop_hop_by_hop(headers);
}

/// Drops what is meant for the next hop alone (RFC 9110, 7.6.1), be it by its name or because
/// `Connection` says so.
fn drop_hop_by_hop(headers: &mut HeaderMap) {
    let connection: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .collect();
    let always = [
        &CONNECTION,
        &KEEP_ALIVE,
        &PROXY_AUTHENTICATE,
        &PROXY_AUTHORIZATION,
        &PROXY_CONNECTION,
        &TE,
        &TRAILER,
        &TRANSFER_ENCODING,
        &UPGRADE,
    ];
    for name in connection.iter().chain(always) {
        headers.remove(name);
    }
}
