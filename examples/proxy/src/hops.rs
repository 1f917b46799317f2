//! Requests that go round in circles: each round takes two sockets, until there are none.

use std::hash::{BuildHasher, Hasher, RandomState};

use http::{HeaderMap, HeaderValue, Version, header::VIA};

/// So many proxies between a client and a server are a mistake.
const MOST: usize = 16;

/// Who this proxy is in the `Via` of what it forwards (RFC 9110, 7.6.3).
#[derive(Debug)]
pub struct Hops(String);

impl Hops {
    /// No two proxies have the same name: a chain of several is no circle.
    pub fn new() -> Self {
        let random = RandomState::new().build_hasher().finish();
        Self(format!("mcp-session-proxy-{random:016x}"))
    }

    /// Adds this proxy to those that a request has come through. An error says why it must not be
    /// forwarded.
    pub fn add(&self, headers: &mut HeaderMap, version: Version) -> Result<(), &'static str> {
        let via = headers.get_all(VIA).into_iter();
        let hops = via.flat_map(|via| via.as_bytes().split(|byte| *byte == b','));
        let mut number = 0;
        for hop in hops {
            let mut words = hop.trim_ascii().split(u8::is_ascii_whitespace);
            if words.nth(1) == Some(self.0.as_bytes()) {
                return Err(
                    "this request has been here before: --upstream leads back to the proxy",
                );
            }
            number += 1;
        }
        if number >= MOST {
            return Err("this request has come through too many proxies");
        }
        let version = match version {
            Version::HTTP_2 => "2",
            Version::HTTP_10 => "1.0",
            _ => "1.1",
        };
        if let Ok(hop) = HeaderValue::try_from(format!("{version} {}", self.0)) {
            headers.append(VIA, hop);
        }
        Ok(())
    }
}
