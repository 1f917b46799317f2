//! OAuth through the proxy, as far as that goes.
//!
//! A client that is answered 401 asks for the metadata of the protected resource (RFC 9728), and
//! goes on only if the resource is what it has called: the proxy. So that is what the metadata
//! say here, and where the challenge points. The client then asks the authorization server for a
//! token for the proxy's URL. One that knows the upstream's alone refuses, and nothing can be done
//! about that: then the proxy is given a token to send (`--header-file`).

use http::{
    HeaderMap, HeaderValue, Response, StatusCode, Uri,
    header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, WWW_AUTHENTICATE},
};
use http_body::Body;
use http_body_util::{BodyExt, Limited};
use serde_json::Value;
use tower::BoxError;

use super::endpoint::Endpoint;

const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

/// Metadata are a few hundred bytes.
const MAX_METADATA: usize = 64 * 1024;

/// What is logged when the upstream asks for authorization.
pub const HINT: &str = "the upstream asks for authorization; if a client cannot get a token for \
    the proxy's URL, give the proxy one: --header-file FILE with a line 'Authorization: Bearer ...'";

/// Whether this is where the metadata of the endpoint are, with the endpoint's path or without.
pub fn is_metadata(path: &str, endpoint: &Endpoint) -> bool {
    let suffix = path.strip_prefix(WELL_KNOWN);
    suffix.is_some_and(|suffix| matches!(suffix, "" | "/") || suffix == endpoint.path())
}

/// The metadata with `resource` as the resource.
pub async fn rewrite_metadata<B>(
    response: Response<B>,
    resource: &str,
) -> Result<Response<Vec<u8>>, &'static str>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    let (mut head, body) = response.into_parts();
    let body = Limited::new(body, MAX_METADATA).collect().await;
    let body = body.map_err(|_| "the upstream's metadata cannot be read")?;
    let mut body = body.to_bytes().to_vec();
    if head.status == StatusCode::OK {
        let mut metadata: Value =
            serde_json::from_slice(&body).map_err(|_| "the upstream's metadata are no JSON")?;
        if let Some(members) = metadata.as_object_mut() {
            members.insert("resource".to_owned(), resource.into());
        }
        body = metadata.to_string().into_bytes();
        let json = HeaderValue::from_static("application/json");
        head.headers.insert(CONTENT_TYPE, json);
    }
    head.headers.remove(CONTENT_LENGTH);
    head.headers.remove(ETAG);
    Ok(Response::from_parts(head, body))
}

/// Points the challenges of an answer to the proxy's metadata. Gives whether there are any.
pub fn rewrite_challenges(headers: &mut HeaderMap, endpoint: &Endpoint, proxy: &str) -> bool {
    let challenges: Vec<_> = headers
        .get_all(WWW_AUTHENTICATE)
        .iter()
        .map(|challenge| {
            let own = challenge.to_str().ok();
            let own = own.and_then(|challenge| rewritten(challenge, endpoint, proxy));
            own.unwrap_or_else(|| challenge.clone())
        })
        .collect();
    headers.remove(WWW_AUTHENTICATE);
    let any = !challenges.is_empty();
    for challenge in challenges {
        headers.append(WWW_AUTHENTICATE, challenge);
    }
    any
}

fn rewritten(challenge: &str, endpoint: &Endpoint, proxy: &str) -> Option<HeaderValue> {
    const NAME: &str = "resource_metadata=";
    let value = challenge.to_ascii_lowercase().find(NAME)? + NAME.len();
    let (before, value) = challenge.split_at(value);
    let (value, after) = match value.strip_prefix('"') {
        Some(quoted) => quoted.split_once('"')?,
        None => value.split_at(value.find([',', ' ']).unwrap_or(value.len())),
    };
    let metadata: Uri = value.parse().ok()?;
    let path = metadata.path();
    is_metadata(path, endpoint)
        .then(|| format!("{before}\"{proxy}{path}\"{after}"))
        .and_then(|challenge| challenge.try_into().ok())
}
