//! Redirects: to the client the proxy is the server, and must not send it past itself.

use http::{HeaderMap, HeaderValue, StatusCode, header::LOCATION};

use super::endpoint::Endpoint;

/// Makes a redirect to the upstream's endpoint one to the proxy's. An error says why another
/// redirect cannot be followed.
pub fn rewrite(
    status: StatusCode,
    headers: &mut HeaderMap,
    upstream: &Endpoint,
) -> Result<(), String> {
    let redirects = matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308);
    let Some(location) = headers.get(LOCATION).filter(|_| redirects) else {
        return Ok(());
    };
    let target = location.to_str().ok().and_then(|to| upstream.resolve(to));
    match target {
        Some(target) if target.is_same(upstream) => {
            let own = HeaderValue::try_from(target.path_and_query());
            headers.insert(LOCATION, own.map_err(|_| "no redirect".to_owned())?);
            Ok(())
        }
        Some(target) => Err(format!(
            "the upstream redirects to {target}; if the endpoint is there, give that as --upstream"
        )),
        None => Err("the upstream redirects to something that is no URL".to_owned()),
    }
}
