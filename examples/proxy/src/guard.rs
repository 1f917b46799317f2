//! Who is served.
//!
//! A web page must not reach a server on the machine of whoever looks at it, and with DNS
//! rebinding it could: the attacker's name comes to resolve to 127.0.0.1, and the browser takes
//! the proxy for the page's own site. The page's `Origin` tells, and MCP demands that it is looked
//! at (2025-11-25, "Transports", "Security Warning"). A page's GET to what the browser takes for
//! its own site has no `Origin`; there the name in `Host` tells. And a GET for another site's image
//! has none, either: there `Sec-Fetch-Site` tells, which no page can set.

use std::{fmt, net::IpAddr, str::FromStr};

use http::{
    HeaderName, HeaderValue, Uri,
    header::{HOST, ORIGIN},
    request::Parts,
    uri::Authority,
};

use super::options::Options;

static SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Decides which requests are served.
#[derive(Debug)]
pub struct Guard {
    origins: Vec<Origin>,
    /// The names besides localhost; `None` if the proxy is there for other machines, which may
    /// call it what they like.
    hosts: Option<Vec<String>>,
}

impl Guard {
    /// `listen` is the address that the proxy turned out to listen on, if it is one.
    pub fn new(options: &Options, listen: Option<IpAddr>) -> Self {
        let listen_name = options.listen.rsplit_once(':').map(|(host, _)| host);
        let names = options.access.allow_host.iter().map(String::as_str);
        let names = names.chain(listen_name).map(str::to_owned).collect();
        Self {
            origins: options.access.allow_origin.clone(),
            hosts: listen
                .is_some_and(|ip| ip.to_canonical().is_loopback())
                .then_some(names),
        }
    }

    /// Says why a request is not served, in one line.
    pub fn check(&self, request: &Parts) -> Result<(), &'static str> {
        let headers = &request.headers;
        let mut origins = headers.get_all(ORIGIN).iter();
        if !origins.all(|origin| self.allows_origin(origin)) {
            return Err("this Origin is not allowed; --allow-origin allows one");
        }
        // An Origin that is allowed is another site's, most of the time.
        let mut sites = headers.get_all(&SEC_FETCH_SITE).iter();
        if !headers.contains_key(ORIGIN) && sites.any(|site| site == "cross-site") {
            return Err("another site's page asks without an Origin");
        }
        let named = headers.get_all(HOST).iter().map(authority);
        let mut named = named.chain(request.uri.authority().cloned().map(Some));
        if !named.all(|host| self.allows_host(host)) {
            return Err("this Host is not allowed; --allow-host allows one");
        }
        Ok(())
    }

    fn allows_origin(&self, origin: &HeaderValue) -> bool {
        let origin: Option<Origin> = origin.to_str().ok().and_then(|origin| origin.parse().ok());
        origin.is_some_and(|origin| origin.is_local() || self.origins.contains(&origin))
    }

    fn allows_host(&self, host: Option<Authority>) -> bool {
        let Some(names) = &self.hosts else {
            return true;
        };
        host.is_some_and(|host| {
            let host = host.host();
            names_loopback(host) || names.iter().any(|name| name.eq_ignore_ascii_case(host))
        })
    }
}

fn authority(host: &HeaderValue) -> Option<Authority> {
    Authority::try_from(host.as_bytes()).ok()
}

/// Whether a host in a URL is this machine, whatever a name server says.
pub fn names_loopback(host: &str) -> bool {
    let ip = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip| ip.to_canonical().is_loopback())
}

/// What browsers send as `Origin`: a scheme, a host, and a port unless it is the scheme's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    scheme: String,
    host: String,
    port: Option<u16>,
}

impl Origin {
    fn is_local(&self) -> bool {
        matches!(&*self.scheme, "http" | "https") && names_loopback(&self.host)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.host)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl FromStr for Origin {
    type Err = &'static str;

    fn from_str(origin: &str) -> Result<Self, Self::Err> {
        const NOT_ONE: &str = "an origin is a scheme, a host and maybe a port";
        let uri: Uri = origin.parse().map_err(|_| NOT_ONE)?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(NOT_ONE);
        };
        let (scheme, host) = (scheme.to_ascii_lowercase(), authority.host());
        // No user name, nothing for a port but a port, and no path.
        let whole = match authority.port_u16() {
            Some(port) => authority.as_str() == format!("{host}:{port}"),
            None => authority.as_str() == host,
        };
        if !whole || host.is_empty() || uri.path_and_query().is_some_and(|path| path != "/") {
            return Err(NOT_ONE);
        }
        let own_port = match &*scheme {
            "http" => Some(80),
            "https" => Some(443),
            _ => None,
        };
        Ok(Self {
            host: host.to_ascii_lowercase(),
            port: authority.port_u16().filter(|port| Some(*port) != own_port),
            scheme,
        })
    }
}
