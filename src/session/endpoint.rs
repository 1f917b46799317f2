//! Where a session was recorded (rule A3).

use std::hash::{Hash, Hasher};

use http::{
    HeaderMap, HeaderValue, Uri,
    header::HOST,
    uri::{Authority, PathAndQuery, Scheme},
};

/// Scheme, authority and path; and the `Host` header where it names another host than the URI
/// (RFC 9112, 3.2: that is what an HTTP/1.1 server goes by), or the URI names none.
pub(crate) struct Endpoint {
    uri: Uri,
    /// Hardly ever one, and never several from a client that keeps to HTTP.
    hosts: Vec<HeaderValue>,
}

impl Endpoint {
    pub(crate) fn new(uri: &Uri, headers: &HeaderMap) -> Self {
        Self {
            uri: without_query(uri).unwrap_or_else(|| uri.clone()),
            hosts: other_hosts(uri, headers).cloned().collect(),
        }
    }

    /// The same to be kept: none of it is a slice of a buffer of the caller's.
    pub(crate) fn copied(&self) -> Self {
        let copied = |host: &HeaderValue| HeaderValue::from_bytes(host.as_bytes()).ok();
        let hosts = self
            .hosts
            .iter()
            .map(|host| copied(host).unwrap_or_else(|| host.clone()));
        Self {
            uri: (self.uri.to_string().parse()).unwrap_or_else(|_| self.uri.clone()),
            hosts: hosts.collect(),
        }
    }

    /// Whether a request with this URI and these headers goes to this endpoint.
    #[cfg(test)]
    fn matches(&self, uri: &Uri, headers: &HeaderMap) -> bool {
        self.has_uri(uri) && self.has_hosts_of(uri, Some(headers))
    }

    /// Whether scheme, authority and path are this endpoint's.
    pub(super) fn has_uri(&self, uri: &Uri) -> bool {
        self.uri.path() == uri.path()
            && same_authority(&self.uri, uri)
            && self.uri.scheme() == uri.scheme()
    }

    /// Whether a request with this URI and these headers is one to the endpoint's host. No headers
    /// are needed if there is no `Host` among them.
    pub(super) fn has_hosts_of(&self, uri: &Uri, headers: Option<&HeaderMap>) -> bool {
        match headers {
            None => self.hosts.is_empty(),
            Some(headers) => self.has_hosts(other_hosts(uri, headers)),
        }
    }

    fn has_hosts<'a>(&self, mut hosts: impl Iterator<Item = &'a HeaderValue>) -> bool {
        let is_next = |own: &[u8]| {
            let other = hosts.next();
            other.is_some_and(|it| self.host_in(it).eq_ignore_ascii_case(own))
        };
        self.hosts().all(is_next) && hosts.next().is_none()
    }

    fn hosts(&self) -> impl Iterator<Item = &[u8]> {
        self.hosts.iter().map(|host| self.host_in(host))
    }

    /// The host that a `Host` header names, in which the scheme's own port is the same as none.
    fn host_in<'a>(&self, header: &'a HeaderValue) -> &'a [u8] {
        let host = header.as_bytes();
        let port = default_port(&self.uri).as_bytes();
        host.strip_suffix(port).unwrap_or(host)
    }

    /// The URI without a query: that is each caller's own, and may be a secret.
    pub(crate) fn uri(&self) -> &Uri {
        &self.uri
    }

    /// What it holds, about, in bytes (rule K10).
    pub(super) fn bytes(&self) -> usize {
        let uri = self.uri.authority().map_or(0, |it| it.as_str().len());
        let path = self.uri.path_and_query().map_or(0, |it| it.as_str().len());
        uri + path + self.hosts.iter().map(HeaderValue::len).sum::<usize>()
    }

    /// Scheme, authority, path and host in their normal form, without user information (rule N2).
    #[cfg(feature = "store")]
    pub(super) fn parts(&self) -> (Option<String>, Option<String>, String, Option<String>) {
        let without_user = |text: &str| {
            let host = text.rsplit('@').next().unwrap_or_default();
            host.to_ascii_lowercase()
        };
        let text = |host: &[u8]| -> String { host.iter().copied().map(char::from).collect() };
        let hosts: Vec<_> = self.hosts().map(text).collect();
        let host = hosts.iter().map(|host| without_user(host));
        (
            self.uri.scheme_str().map(str::to_ascii_lowercase),
            without_default_port(&self.uri).map(without_user),
            self.uri.path().to_owned(),
            (!hosts.is_empty()).then(|| host.collect::<Vec<_>>().join(",")),
        )
    }

    /// The host alone, for logs: no user information, no path, no query (rule L1). A `Host` header
    /// that is no authority is not told.
    pub(crate) fn host(&self) -> String {
        let header = || {
            let host = self.hosts.first()?.to_str().ok()?;
            Some(host.parse::<Authority>().ok()?.host().to_owned())
        };
        header()
            .or_else(|| self.uri.host().map(str::to_owned))
            .unwrap_or_default()
    }
}

impl PartialEq for Endpoint {
    fn eq(&self, other: &Self) -> bool {
        self.has_uri(&other.uri) && self.has_hosts(other.hosts.iter())
    }
}

impl Eq for Endpoint {}

impl Hash for Endpoint {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // What differs in nothing but its case comes to the same, eight bytes at a time.
        let mut lower = |text: &[u8]| {
            for chunk in text.chunks(size_of::<u64>()) {
                let mut word = [0; size_of::<u64>()];
                word[..chunk.len()].copy_from_slice(chunk);
                state.write_u64(u64::from_ne_bytes(word) | 0x2020_2020_2020_2020);
            }
            state.write_u8(0xff);
        };
        lower(
            without_default_port(&self.uri)
                .unwrap_or_default()
                .as_bytes(),
        );
        self.hosts().for_each(lower);
        self.uri.path().hash(state);
    }
}

/// Whether two URIs are the same to the letter; whatever the case of a scheme, which says nothing.
pub(super) fn is_spelled_alike(one: &Uri, other: &Uri) -> bool {
    one.path_and_query().map(PathAndQuery::as_str)
        == other.path_and_query().map(PathAndQuery::as_str)
        && one.authority().map(Authority::as_str) == other.authority().map(Authority::as_str)
        && one.scheme() == other.scheme()
}

/// Authorities are equal whatever their case, but nearly always they are spelled alike, which is
/// cheaper to find out.
fn same_authority(one: &Uri, other: &Uri) -> bool {
    let is_alike =
        one.authority().map(Authority::as_str) == other.authority().map(Authority::as_str);
    is_alike
        || without_default_port(one).is_some_and(|one| {
            without_default_port(other).is_some_and(|other| one.eq_ignore_ascii_case(other))
        })
}

/// The authority, in which a scheme's own port is the same as none (RFC 9110, 4.2.3).
fn without_default_port(uri: &Uri) -> Option<&str> {
    let authority = uri.authority()?.as_str();
    let port = default_port(uri);
    Some(authority.strip_suffix(port).unwrap_or(authority))
}

/// The port that a URI's scheme means where none is named, as it is written.
fn default_port(uri: &Uri) -> &'static str {
    match uri.scheme_str() {
        Some("http") => ":80",
        Some("https") => ":443",
        _ => "",
    }
}

/// The same URI, if it has a query that can be left out.
fn without_query(uri: &Uri) -> Option<Uri> {
    uri.query()?;
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(uri.path().parse().ok()?);
    Uri::from_parts(parts).ok()
}

/// The `Host` headers, unless all of them name the URI's own host.
fn other_hosts<'a>(uri: &Uri, headers: &'a HeaderMap) -> impl Iterator<Item = &'a HeaderValue> {
    let hosts = headers.get_all(HOST);
    let is_own = |host: &HeaderValue| {
        let Some(authority) = uri.authority() else {
            return false;
        };
        host.as_bytes() == authority.as_str().as_bytes()
            || host
                .to_str()
                .ok()
                .and_then(|host| host.parse::<Authority>().ok())
                .is_some_and(|host| is_same_host(uri.scheme(), authority, &host))
    };
    let are_own = hosts.iter().all(is_own);
    hosts.iter().skip(if are_own { usize::MAX } else { 0 })
}

fn is_same_host(scheme: Option<&Scheme>, one: &Authority, other: &Authority) -> bool {
    let default = match scheme.map(Scheme::as_str) {
        Some("http") => Some(80),
        Some("https") => Some(443),
        _ => None,
    };
    let port = |authority: &Authority| authority.port_u16().or(default);
    one.host().eq_ignore_ascii_case(other.host()) && port(one) == port(other)
}

#[cfg(test)]
mod tests {
    use std::hash::DefaultHasher;

    use super::*;

    fn host(host: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(HOST, HeaderValue::from_static(host))])
    }

    fn matches(one: &str, other: &str) -> bool {
        let endpoint = Endpoint::new(&one.parse().unwrap(), &HeaderMap::new());
        endpoint.matches(&other.parse().unwrap(), &HeaderMap::new())
    }

    #[test]
    fn a3_an_endpoint_is_scheme_authority_and_path() {
        assert!(matches("http://a.test/mcp", "http://A.test/mcp?token=1"));
        assert!(matches("http://a.test:80/mcp", "http://A.test/mcp"));
        assert!(matches("https://a.test/mcp", "https://a.test:443/mcp"));
        assert!(!matches("http://a.test/mcp", "http://a.test:443/mcp"));
        assert!(!matches("http://a.test/mcp", "https://a.test/mcp"));
        assert!(!matches("http://a.test/mcp", "http://a.test:8080/mcp"));
        assert!(!matches("http://a.test/mcp", "http://b.test/mcp"));
        assert!(!matches("http://a.test/mcp", "http://a.test/other"));
    }

    #[test]
    fn f7_the_spelling_of_a_uri_counts() {
        const ONE: &str = "http://a.test/mcp?q";
        for other in [
            ONE,
            "http://a.test/mcp",
            "http://a.test/mcp?Q",
            "http://A.test/mcp?q",
            "https://a.test/mcp?q",
            "http://a.test",
            "/mcp?q",
            "a.test:443",
        ] {
            let alike = is_spelled_alike(&Uri::from_static(ONE), &other.parse().unwrap());
            assert_eq!(alike, other == ONE, "{other}");
        }
    }

    #[test]
    fn a3_without_an_authority_the_host_header_names_it() {
        let uri = Uri::from_static("/mcp");
        let endpoint = Endpoint::new(&uri, &host("a.test"));
        assert!(endpoint.matches(&uri, &host("a.test")));
        assert!(!endpoint.matches(&uri, &host("b.test")));
        assert!(!endpoint.matches(&uri, &HeaderMap::new()));
    }

    #[test]
    fn a3_a_host_header_that_names_another_host_makes_another_endpoint() {
        let uri = Uri::from_static("http://a.test/mcp");
        let endpoint = Endpoint::new(&uri, &HeaderMap::new());
        for own in ["a.test", "A.test", "a.test:80"] {
            assert!(endpoint.matches(&uri, &host(own)), "{own}");
        }
        for other in ["b.test", "a.test:8080", "a.test, b.test", ""] {
            assert!(!endpoint.matches(&uri, &host(other)), "{other}");
        }
        let virtual_host = Endpoint::new(&uri, &host("b.test"));
        assert!(virtual_host.matches(&uri, &host("B.test")));
        assert!(!virtual_host.matches(&uri, &HeaderMap::new()));
        assert!(endpoint.has_hosts_of(&uri, None) && !virtual_host.has_hosts_of(&uri, None));
    }

    #[test]
    fn a3_a_schemes_own_port_is_the_same_as_none_in_a_host_header_too() {
        let http = Endpoint::new(&Uri::from_static("http://a.test/mcp"), &HeaderMap::new());
        let https = Endpoint::new(&Uri::from_static("https://a.test/mcp"), &HeaderMap::new());
        for (endpoint, own, other) in [
            (&http, "a.test:80", "a.test:443"),
            (&https, "a.test:443", "a.test:80"),
        ] {
            assert!(endpoint.matches(endpoint.uri(), &host(own)), "{own}");
            assert!(!endpoint.matches(endpoint.uri(), &host(other)), "{other}");
        }
    }

    #[test]
    fn a3_a_schemes_own_port_is_the_same_as_none_in_another_host_too() {
        let hash = |endpoint: &Endpoint| {
            let mut hasher = DefaultHasher::new();
            endpoint.hash(&mut hasher);
            hasher.finish()
        };
        for (scheme, own, other) in [
            ("http", "b.test:80", "b.test:443"),
            ("https", "b.test:443", "b.test:80"),
        ] {
            let uri: Uri = format!("{scheme}://a.test/mcp").parse().unwrap();
            let [bare, own_port, other_port] =
                ["B.test", own, other].map(|name| Endpoint::new(&uri, &host(name)));
            assert!(bare.matches(&uri, &host(own)) && own_port.matches(&uri, &host("b.test")));
            assert!(bare == own_port && hash(&bare) == hash(&own_port));
            assert!(bare != other_port && !bare.matches(&uri, &host(other)));
            #[cfg(feature = "store")]
            {
                assert_eq!(bare.parts(), own_port.parts());
                assert_ne!(bare.parts(), other_port.parts());
            }
        }
        // No scheme is known, and none of its ports.
        let uri = Uri::from_static("/mcp");
        assert!(!Endpoint::new(&uri, &host("b.test")).matches(&uri, &host("b.test:80")));
    }

    #[test]
    fn a3_an_endpoint_holds_no_query() {
        let uri = Uri::from_static("http://a.test/mcp?token=secret");
        assert_eq!(
            *Endpoint::new(&uri, &HeaderMap::new()).uri(),
            "http://a.test/mcp"
        );
    }

    #[test]
    fn l1_the_host_in_logs_holds_no_user_information() {
        let uri = Uri::from_static("http://user:secret@a.test:80/path?token=secret");
        assert_eq!(Endpoint::new(&uri, &HeaderMap::new()).host(), "a.test");
        let uri = Uri::from_static("/path");
        for (header, shown) in [
            ("user:secret@a.test:80", "a.test"),
            ("user:secret@a.test:80/x", ""),
            ("se cret", ""),
        ] {
            assert_eq!(Endpoint::new(&uri, &host(header)).host(), shown, "{header}");
        }
    }

    #[cfg(feature = "store")]
    #[test]
    fn a3_n2_a_host_header_that_makes_another_endpoint_is_part_of_what_is_stored() {
        let uri = Uri::from_static("http://user@A.test:80/mcp?token=secret");
        let parts = |headers: &HeaderMap| Endpoint::new(&uri, headers).parts();
        let (scheme, authority, path, hosts) = parts(&HeaderMap::new());
        assert_eq!(
            (scheme.as_deref(), authority.as_deref()),
            (Some("http"), Some("a.test"))
        );
        assert_eq!((&*path, hosts), ("/mcp", None));
        assert_eq!(parts(&host("user@B.test")).3.as_deref(), Some("b.test"));
    }
}
