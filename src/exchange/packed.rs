//! The head of a request, kept at little cost so that it can be made again.

use std::ops::Range;

use bytes::Bytes;
use http::{
    Extensions, HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version, request::Parts,
};

/// The head of a request, packed into one piece of memory.
///
/// Nearly every request is answered at once and never made again. Cloning a `HeaderMap` costs two
/// allocations and, for each value that was not shared before, one more; packing it costs one
/// allocation and a copy of some hundred bytes.
#[derive(Clone)]
pub(crate) struct PackedHead {
    method: Method,
    version: Version,
    /// The URI's text, then the headers.
    packed: Vec<u8>,
    uri_len: u16,
    /// The URI itself, where its text would not come to the same.
    odd_uri: Option<Box<Uri>>,
    /// How many names the headers have.
    names: u16,
    extensions: Extensions,
}

/// What stands before the name and the value of each header: their lengths, and whether the value
/// is sensitive.
const PREFIX: usize = 2 * size_of::<u32>() + 1;
/// Few headers are longer on average, and then the memory grows.
const USUAL: usize = 64;

impl PackedHead {
    pub(crate) fn new(parts: &Parts) -> Self {
        let mut packed = Vec::with_capacity(USUAL * (parts.headers.len() + 1));
        let odd_uri = is_odd(&parts.uri).then(|| Box::new(parts.uri.clone()));
        if odd_uri.is_none() {
            pack_uri(&parts.uri, &mut packed);
        }
        // It is no longer than `MAX_URI`.
        let uri_len = u16::try_from(packed.len()).unwrap_or_default();
        for (name, value) in &parts.headers {
            let name = name.as_str().as_bytes();
            // `http` allows neither names nor values of 4 GiB.
            let mut prefix = [0; PREFIX];
            prefix[..4].copy_from_slice(&(name.len() as u32).to_ne_bytes());
            prefix[4..8].copy_from_slice(&(value.len() as u32).to_ne_bytes());
            prefix[8] = u8::from(value.is_sensitive());
            packed.extend_from_slice(&prefix);
            packed.extend_from_slice(name);
            packed.extend_from_slice(value.as_bytes());
        }
        Self {
            method: parts.method.clone(),
            version: parts.version,
            packed,
            uri_len,
            odd_uri,
            // A `HeaderMap` has no room for more.
            names: u16::try_from(parts.headers.keys_len()).unwrap_or_default(),
            extensions: parts.extensions.clone(),
        }
    }

    pub(crate) fn method(&self) -> &Method {
        &self.method
    }

    /// The first value of a header.
    pub(crate) fn header(&self, name: &HeaderName) -> Option<HeaderValue> {
        let header = spans(&self.packed, self.uri_len.into())
            .find(|header| self.packed[header.name.clone()] == *name.as_str().as_bytes())?;
        HeaderValue::from_bytes(&self.packed[header.value]).ok()
    }

    /// The head as it was.
    pub(crate) fn unpack(&self) -> Parts {
        let (mut parts, ()) = Request::new(()).into_parts();
        parts.method = self.method.clone();
        parts.version = self.version;
        let packed = Bytes::copy_from_slice(&self.packed);
        // All of it was valid when it was packed.
        parts.uri = match &self.odd_uri {
            Some(uri) => Uri::clone(uri),
            None => Uri::from_maybe_shared(packed.slice(..usize::from(self.uri_len)))
                .unwrap_or_default(),
        };
        // Not for each value: a map may have more of them than it has room for names.
        parts.headers = HeaderMap::with_capacity(self.names.into());
        for header in spans(&packed, self.uri_len.into()) {
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

/// The longest text that is surely taken for a URI, in bytes.
const MAX_URI: usize = 32 * 1024;

/// Whether a URI may not come out of its text as it was: it is too long in all, though none of its
/// parts is, or its path does not begin with a slash, so that it would run into the authority.
fn is_odd(uri: &Uri) -> bool {
    let path_and_query = uri.path_and_query().map_or("", |path| path.as_str());
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let runs_into = !authority.is_empty() && !path_and_query.starts_with('/');
    let is_path = !path_and_query.is_empty();
    path_and_query.len() + authority.len() > MAX_URI || (is_path && runs_into)
}

/// Writes a URI as its `Display` does, and cheaper.
fn pack_uri(uri: &Uri, packed: &mut Vec<u8>) {
    if let Some(scheme) = uri.scheme_str() {
        packed.extend_from_slice(scheme.as_bytes());
        packed.extend_from_slice(b"://");
    }
    if let Some(authority) = uri.authority() {
        packed.extend_from_slice(authority.as_str().as_bytes());
    }
    if let Some(path_and_query) = uri.path_and_query() {
        packed.extend_from_slice(path_and_query.as_str().as_bytes());
    }
}

/// Where a header is.
struct Span {
    name: Range<usize>,
    value: Range<usize>,
    is_sensitive: bool,
}

/// The headers from `start` on.
fn spans(packed: &[u8], mut start: usize) -> impl Iterator<Item = Span> + '_ {
    std::iter::from_fn(move || {
        let prefix = packed.get(start..start + PREFIX)?;
        let length = |at: usize| {
            let bytes = prefix[at..][..4].try_into().unwrap_or_default();
            u32::from_ne_bytes(bytes) as usize
        };
        let name = start + PREFIX..start + PREFIX + length(0);
        let value = name.end..name.end + length(4);
        start = value.end;
        Some(Span {
            name,
            value,
            is_sensitive: prefix[8] == 1,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
            .extension(7_u8)
            .body(())
            .unwrap();
        request
            .headers_mut()
            .get_mut("accept")
            .unwrap()
            .set_sensitive(true);
        let (parts, ()) = request.into_parts();

        let out = PackedHead::new(&parts).unpack();

        assert_eq!(out.method, parts.method);
        assert_eq!(out.uri, parts.uri);
        assert_eq!(out.version, parts.version);
        assert_eq!(out.headers, parts.headers);
        assert!(out.headers["accept"].is_sensitive() && !out.headers["x-empty"].is_sensitive());
        assert_eq!(out.extensions.get::<u8>(), Some(&7));
    }

    #[test]
    fn f7_a_head_with_many_values_comes_out_as_it_went_in() {
        let (mut parts, ()) = Request::new(()).into_parts();
        for nth in 0..25_000_u32 {
            parts.headers.append("x-one", nth.into());
        }
        assert_eq!(PackedHead::new(&parts).unpack().headers, parts.headers);

        parts.headers.clear();
        for nth in 0.. {
            let name = HeaderName::try_from(format!("x-{nth}")).unwrap();
            if parts.headers.try_append(name, 1.into()).is_err() {
                break;
            }
        }
        assert!(parts.headers.keys_len() > 20_000);
        assert_eq!(PackedHead::new(&parts).unpack().headers, parts.headers);
    }

    #[test]
    fn f7_a_uri_that_its_text_does_not_make_comes_out_as_it_went_in() {
        let of = |path_and_query: &str| {
            let builder = Uri::builder().scheme("http").authority("a.test");
            builder.path_and_query(path_and_query).build().unwrap()
        };
        for length in [100, MAX_URI - 6, MAX_URI - 5, 65_520, 65_534] {
            let path = format!("/{}", "x".repeat(length - 1));
            let (mut parts, ()) = Request::new(()).into_parts();
            parts.uri = of(&path);
            assert_eq!(PackedHead::new(&parts).unpack().uri, parts.uri, "{length}");
        }
        for path in ["?q=1", "*"] {
            let (mut parts, ()) = Request::new(()).into_parts();
            parts.uri = of(path);
            let out = PackedHead::new(&parts).unpack().uri;
            assert_eq!(out, parts.uri, "{path}");
            assert_eq!(out.path_and_query(), parts.uri.path_and_query(), "{path}");
        }
    }

    #[test]
    fn f7_every_form_of_uri_comes_out_as_it_went_in() {
        for uri in [
            "http://a.test",
            "https://user:pw@[::1]:8080/mcp?a=%20&b",
            "HTTP://A.test/mcp",
            "unix://socket/mcp",
            "/mcp?q",
            "/",
            "*",
            "a.test:443",
        ] {
            let (mut parts, ()) = Request::new(()).into_parts();
            parts.uri = uri.parse().unwrap();
            assert_eq!(PackedHead::new(&parts).unpack().uri, parts.uri, "{uri}");
            assert_eq!(
                PackedHead::new(&parts).unpack().uri.to_string(),
                parts.uri.to_string()
            );
        }
    }
}
