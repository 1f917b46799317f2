//! Where a session was recorded (rule A3).

use http::{HeaderMap, HeaderValue, Uri, header::HOST, uri::Authority};

/// Scheme, authority and path. The `Host` header stands in for the authority of a request that
/// has none in its URI (RFC 9112, 3.2.1).
pub(crate) struct Endpoint {
    uri: Uri,
    host: Option<HeaderValue>,
}

impl Endpoint {
    pub(crate) fn new(uri: &Uri, headers: &HeaderMap) -> Self {
        Self {
            uri: uri.clone(),
            host: host_of(uri, headers).cloned(),
        }
    }

    /// Whether a request with this URI and these headers goes to this endpoint.
    pub(crate) fn matches(&self, uri: &Uri, headers: &HeaderMap) -> bool {
        self.is(uri, host_of(uri, headers))
    }

    pub(super) fn same_as(&self, other: &Self) -> bool {
        self.is(&other.uri, other.host.as_ref())
    }

    fn is(&self, uri: &Uri, host: Option<&HeaderValue>) -> bool {
        self.uri.path() == uri.path()
            && same_authority(&self.uri, uri)
            && self.uri.scheme() == uri.scheme()
            && self.host.as_ref() == host
    }

    /// The host alone, for logs: no user information, no path, no query.
    pub(crate) fn host(&self) -> &str {
        let header = || self.host.as_ref().and_then(|host| host.to_str().ok());
        self.uri.host().or_else(header).unwrap_or_default()
    }
}

/// Authorities are equal whatever their case, but nearly always they are spelled alike, which is
/// cheaper to find out.
fn same_authority(one: &Uri, other: &Uri) -> bool {
    let (one, other) = (one.authority(), other.authority());
    one.map(Authority::as_str) == other.map(Authority::as_str) || one == other
}

fn host_of<'a>(uri: &Uri, headers: &'a HeaderMap) -> Option<&'a HeaderValue> {
    match uri.authority() {
        Some(_) => None,
        None => headers.get(HOST),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(one: &str, other: &str) -> bool {
        let headers = HeaderMap::new();
        Endpoint::new(&one.parse().unwrap(), &headers).matches(&other.parse().unwrap(), &headers)
    }

    #[test]
    fn a3_an_endpoint_is_scheme_authority_and_path() {
        assert!(matches("http://a.test/mcp", "http://A.test/mcp?token=1"));
        assert!(!matches("http://a.test/mcp", "https://a.test/mcp"));
        assert!(!matches("http://a.test/mcp", "http://a.test:8080/mcp"));
        assert!(!matches("http://a.test/mcp", "http://b.test/mcp"));
        assert!(!matches("http://a.test/mcp", "http://a.test/other"));
    }

    #[test]
    fn a3_without_an_authority_the_host_header_names_it() {
        let host = |host| HeaderMap::from_iter([(HOST, HeaderValue::from_static(host))]);
        let uri = Uri::from_static("/mcp");
        let endpoint = Endpoint::new(&uri, &host("a.test"));
        assert!(endpoint.matches(&uri, &host("a.test")));
        assert!(!endpoint.matches(&uri, &host("b.test")));
        assert!(!endpoint.matches(&uri, &HeaderMap::new()));
    }

    #[test]
    fn l1_the_host_in_logs_holds_no_user_information() {
        let uri = Uri::from_static("http://user:secret@a.test:80/path?token=secret");
        assert_eq!(Endpoint::new(&uri, &HeaderMap::new()).host(), "a.test");
    }
}
