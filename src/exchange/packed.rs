//! The head of a request, kept at little cost so that it can be made again.

use std::ops::Range;

use bytes::Bytes;
use http::{
    Extensions, HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version, request::Parts,
};

/// The head of a request, its headers packed into one piece of memory.
///
/// Nearly every request is answered at once and never made again. Cloning a `HeaderMap` costs two
/// allocations and, for each value that was not shared before, one more; packing it costs one
/// allocation and a copy of some hundred bytes.
#[derive(Clone)]
pub(crate) struct PackedHead {
    method: Method,
    version: Version,
    /// Unless it is the session's own, which nearly every one is.
    uri: Option<Box<Uri>>,
    headers: Vec<u8>,
    /// How many names the headers have.
    names: u16,
    extensions: Extensions,
}

/// What stands before the name and the value of each header: whether the value is sensitive, and
/// both lengths. `http` allows no name of 64 KiB, and no value of 4 GiB.
const PREFIX: usize = size_of::<u64>();
const NAME_LEN: u32 = 1;
const VALUE_LEN: u32 = NAME_LEN + u16::BITS;
/// Few headers are longer on average, and then the memory grows.
const USUAL: usize = 64;

impl PackedHead {
    /// The head of a request, whose URI may be the session's own.
    pub(crate) fn new<B>(request: &Request<B>, has_own_uri: bool) -> Self {
        Self {
            method: request.method().clone(),
            version: request.version(),
            uri: (!has_own_uri).then(|| Box::new(request.uri().clone())),
            headers: pack(request.headers()),
            // A `HeaderMap` has no room for more.
            names: u16::try_from(request.headers().keys_len()).unwrap_or_default(),
            extensions: request.extensions().clone(),
        }
    }

    pub(crate) fn method(&self) -> &Method {
        &self.method
    }

    /// The first value of a header.
    pub(crate) fn header(&self, name: &HeaderName) -> Option<HeaderValue> {
        HeaderValue::from_bytes(self.value(name)?).ok()
    }

    /// The same as it stands.
    pub(crate) fn value(&self, name: &HeaderName) -> Option<&[u8]> {
        let header = spans(&self.headers)
            .find(|header| self.headers[header.name.clone()] == *name.as_str().as_bytes())?;
        Some(&self.headers[header.value])
    }

    /// The head as it was, in a session whose own URI this is.
    pub(crate) fn unpack(&self, own: &Uri) -> Parts {
        let (mut parts, ()) = Request::new(()).into_parts();
        parts.method = self.method.clone();
        parts.version = self.version;
        parts.uri = self.uri.as_deref().unwrap_or(own).clone();
        // Not for each value: a map may have more of them than it has room for names.
        parts.headers = HeaderMap::with_capacity(self.names.into());
        let packed = Bytes::copy_from_slice(&self.headers);
        for header in spans(&packed) {
            // All of it was valid when it was packed.
            let name = HeaderName::from_bytes(&packed[header.name]);
            let value = HeaderValue::from_maybe_shared(packed.slice(header.value));
            if let (Ok(name), Ok(mut value)) = (name, value) {
                value.set_sensitive(header.is_sensitive);
                parts.headers.append(name, value);
            }
        }
        parts.extensions = self.extensions.clone();
        parts
    }
}

fn pack(headers: &HeaderMap) -> Vec<u8> {
    let mut packed = Vec::with_capacity(USUAL * headers.len());
    for (name, value) in headers {
        let (name, bytes) = (name.as_str().as_bytes(), value.as_bytes());
        let lengths = (name.len() as u64) << NAME_LEN | (bytes.len() as u64) << VALUE_LEN;
        let prefix = lengths | u64::from(value.is_sensitive());
        packed.extend_from_slice(&prefix.to_ne_bytes());
        packed.extend_from_slice(name);
        packed.extend_from_slice(bytes);
    }
    packed
}

/// Where a header is.
struct Span {
    name: Range<usize>,
    value: Range<usize>,
    is_sensitive: bool,
}

fn spans(packed: &[u8]) -> impl Iterator<Item = Span> + '_ {
    let mut start = 0;
    std::iter::from_fn(move || {
        let prefix = packed.get(start..start + PREFIX)?.try_into().ok()?;
        let prefix = u64::from_ne_bytes(prefix);
        let name = start + PREFIX;
        let value = name + usize::from((prefix >> NAME_LEN) as u16);
        start = value + (prefix >> VALUE_LEN) as usize;
        Some(Span {
            name: name..value,
            value: value..start,
            is_sensitive: prefix & 1 == 1,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(request: &Request<()>) -> Parts {
        PackedHead::new(request, false).unpack(&Uri::default())
    }

    #[test]
    fn f7_a_head_comes_out_of_the_packing_as_it_went_in() {
        let mut request = Request::builder()
            .method("PROPFIND")
            .uri("http://user@a.test:8080/mcp?q=1")
            .version(Version::HTTP_2)
            .header("accept", "one")
            .header("x-custom", "a")
            .header("x-custom", "b")
            .header("x-empty", "")
            .header("x-opaque", HeaderValue::from_bytes(b"\xff\x80").unwrap())
            .header("x-long", "x".repeat(100_000))
            .extension(7_u8)
            .body(())
            .unwrap();
        request
            .headers_mut()
            .get_mut("accept")
            .unwrap()
            .set_sensitive(true);

        let out = packed(&request);

        assert_eq!(out.method, *request.method());
        assert_eq!(out.uri, *request.uri());
        assert_eq!(out.version, request.version());
        assert_eq!(out.headers, *request.headers());
        assert!(out.headers["accept"].is_sensitive() && !out.headers["x-empty"].is_sensitive());
        assert_eq!(out.extensions.get::<u8>(), Some(&7));
    }

    #[test]
    #[cfg_attr(miri, ignore = "it takes too long")]
    fn f7_a_head_with_many_values_comes_out_as_it_went_in() {
        let mut request = Request::new(());
        let headers = request.headers_mut();
        for nth in 0..25_000_u32 {
            headers.append("x-one", nth.into());
        }
        assert_eq!(packed(&request).headers, *request.headers());

        let headers = request.headers_mut();
        headers.clear();
        for nth in 0.. {
            let name = HeaderName::try_from(format!("x-{nth}")).unwrap();
            if headers.try_append(name, 1.into()).is_err() {
                break;
            }
        }
        assert!(headers.keys_len() > 20_000);
        assert_eq!(packed(&request).headers, *request.headers());
    }

    #[test]
    fn f7_the_sessions_own_uri_comes_out_as_that() {
        let own = Uri::from_static("http://a.test/mcp?q");
        let head = PackedHead::new(&Request::new(()), true);
        assert_eq!(head.unpack(&own).uri, own);
    }
}
