//! The head of a request, kept at little cost so that it can be made again.

use bytes::Bytes;
use http::{
    Extensions, HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version, request::Parts,
};

/// The head of a request, with its headers packed into one piece of memory.
///
/// Nearly every request is answered at once and never made again. Cloning a `HeaderMap` costs two
/// allocations and, for each value that was not shared before, one more; packing it costs one
/// allocation and a copy of some hundred bytes.
pub(crate) struct PackedHead {
    method: Method,
    uri: Uri,
    version: Version,
    headers: Vec<u8>,
    extensions: Extensions,
}

/// What stands before the name and the value of each header: their lengths, and whether the value
/// is sensitive.
const PREFIX: usize = 2 * size_of::<u32>() + 1;
/// Few headers are longer on average, and then the memory grows.
const USUAL: usize = 64;

impl PackedHead {
    pub(crate) fn new(parts: &Parts) -> Self {
        let mut headers = Vec::with_capacity(parts.headers.len() * USUAL);
        for (name, value) in &parts.headers {
            let name = name.as_str().as_bytes();
            // `http` allows neither names nor values of 4 GiB.
            let mut prefix = [0; PREFIX];
            prefix[..4].copy_from_slice(&(name.len() as u32).to_ne_bytes());
            prefix[4..8].copy_from_slice(&(value.len() as u32).to_ne_bytes());
            prefix[8] = u8::from(value.is_sensitive());
            headers.reserve(PREFIX + name.len() + value.len());
            headers.extend_from_slice(&prefix);
            headers.extend_from_slice(name);
            headers.extend_from_slice(value.as_bytes());
        }
        Self {
            method: parts.method.clone(),
            uri: parts.uri.clone(),
            version: parts.version,
            headers,
            extensions: parts.extensions.clone(),
        }
    }

    pub(crate) fn method(&self) -> &Method {
        &self.method
    }

    /// The head as it was.
    pub(crate) fn unpack(&self) -> Parts {
        let (mut parts, ()) = Request::new(()).into_parts();
        parts.method = self.method.clone();
        parts.uri = self.uri.clone();
        parts.version = self.version;
        parts.headers = self.headers();
        parts.extensions = self.extensions.clone();
        parts
    }

    fn headers(&self) -> HeaderMap {
        let mut packed = Bytes::copy_from_slice(&self.headers);
        let mut headers = HeaderMap::new();
        while packed.len() >= PREFIX {
            let length = |at: usize| {
                let bytes = packed[at..][..4].try_into().unwrap_or_default();
                u32::from_ne_bytes(bytes) as usize
            };
            let (name, value, sensitive) = (length(0), length(4), packed[8] == 1);
            let name = packed.split_to(PREFIX + name).slice(PREFIX..);
            let value = packed.split_to(value);
            // Both were valid when they were packed.
            if let (Ok(name), Ok(mut value)) = (
                HeaderName::from_bytes(&name),
                HeaderValue::from_maybe_shared(value),
            ) {
                value.set_sensitive(sensitive);
                headers.append(name, value);
            }
        }
        headers
    }
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
}
