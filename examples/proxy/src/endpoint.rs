//! The endpoint that is forwarded to.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use http::{Uri, uri::PathAndQuery};

use super::guard::names_loopback;

/// An MCP endpoint's URL. Displayed without its query, which may hold a key.
#[derive(Debug, Clone)]
pub struct Endpoint(Uri);

impl Endpoint {
    /// Why a URL is refused does not repeat it, for the same reason.
    pub fn parse(url: &str) -> Result<Self, String> {
        let uri: Uri = url.parse().map_err(|why| format!("no URL: {why}"))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err("the URL has to begin with http:// or https://".to_owned());
        }
        match uri.authority() {
            Some(authority) if authority.as_str().contains('@') => Err(
                "a URL with a user name is not supported: clients send their own \
                    Authorization header"
                    .to_owned(),
            ),
            Some(authority) if authority.host().is_empty() => Err("the URL has no host".to_owned()),
            Some(authority)
                if authority.as_str() != authority.host() && uri.port_u16().is_none() =>
            {
                Err("the URL's port is no port".to_owned())
            }
            Some(_) => Ok(Self(uri)),
            None => Err("the URL has no host".to_owned()),
        }
    }

    pub fn path(&self) -> &str {
        self.0.path()
    }

    pub fn path_and_query(&self) -> &str {
        self.0.path_and_query().map_or("/", PathAndQuery::as_str)
    }

    /// What a reference in an answer means (RFC 3986, 5), if it is absolute or has a whole path.
    pub fn resolve(&self, reference: &str) -> Option<Self> {
        let (scheme, authority) = (self.0.scheme_str()?, self.0.authority()?);
        let url = match reference {
            network if network.starts_with("//") => format!("{scheme}:{network}"),
            path if path.starts_with('/') => format!("{scheme}://{authority}{path}"),
            absolute => absolute.to_owned(),
        };
        Self::parse(&url).ok()
    }

    /// Whether both are the same but for their queries.
    pub fn is_same(&self, other: &Self) -> bool {
        let host = |it: &Self| it.0.host().map(str::to_ascii_lowercase);
        (self.is_https(), host(self), self.port(), self.path())
            == (other.is_https(), host(other), other.port(), other.path())
    }

    /// Another path of the same server.
    pub fn at(&self, path: &str) -> Option<Uri> {
        let mut parts = self.0.clone().into_parts();
        parts.path_and_query = Some(path.parse().ok()?);
        Uri::from_parts(parts).ok()
    }

    fn port(&self) -> u16 {
        let own = if self.is_https() { 443 } else { 80 };
        self.0.port_u16().unwrap_or(own)
    }

    pub fn is_https(&self) -> bool {
        self.0.scheme_str() == Some("https")
    }

    /// The URI to send a request to that came with `query`. `None` if the two queries together are
    /// too long for one.
    pub fn uri(&self, query: Option<&str>) -> Option<Uri> {
        let Some(query) = query else {
            return Some(self.0.clone());
        };
        let query = match self.0.query() {
            Some(own) => format!("{}?{own}&{query}", self.path()),
            None => format!("{}?{query}", self.path()),
        };
        let mut parts = self.0.clone().into_parts();
        parts.path_and_query = Some(PathAndQuery::try_from(query).ok()?);
        Uri::from_parts(parts).ok()
    }

    /// Whether this is, as far as the URL tells, what listens on `address`: forwarding to itself
    /// would go on until no socket is left.
    pub fn is_at(&self, address: SocketAddr) -> bool {
        let host = self.0.host().unwrap_or_default();
        let ip = host.trim_matches(['[', ']']).parse();
        let same_host = ip.is_ok_and(|ip: IpAddr| ip == address.ip());
        let both_local =
            names_loopback(host) && (address.ip().is_loopback() || address.ip().is_unspecified());
        self.port() == address.port() && !self.is_https() && (same_host || both_local)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.0.scheme_str().unwrap_or_default();
        let authority = self
            .0
            .authority()
            .map_or("", |authority| authority.as_str());
        write!(f, "{scheme}://{authority}{}", self.path())
    }
}
