//! Why the upstream gave no answer, in one line that holds no secret.

use std::{error::Error, io, iter::successors};

use http::StatusCode;
use http_body_util::LengthLimitError;
use hyper_util::client::legacy;
use tower::timeout::error::Elapsed;

pub const TOO_LARGE: &str = "the request body is too large; --max-body-bytes sets the limit";

/// The status and the text of the answer to a request that could not be forwarded.
pub fn failure(error: &legacy::Error) -> (StatusCode, String) {
    if causes(error).any(|cause| cause.is::<LengthLimitError>()) {
        return (StatusCode::PAYLOAD_TOO_LARGE, TOO_LARGE.to_owned());
    }
    let is_user = |cause: &hyper::Error| cause.is_user();
    if causes(error).any(|cause| cause.downcast_ref().is_some_and(is_user)) {
        return (
            StatusCode::BAD_REQUEST,
            "the request body broke off".to_owned(),
        );
    }
    let text = match error.is_connect() {
        true => format!("the upstream cannot be reached: {}", reason(error)),
        false => "the upstream ended the connection before it answered".to_owned(),
    };
    (StatusCode::BAD_GATEWAY, text)
}

/// Taken from what kind of error it is: its text may hold anything.
fn reason(error: &legacy::Error) -> String {
    for cause in causes(error) {
        if cause.is::<Elapsed>() {
            return "timed out".to_owned();
        }
        if cause.to_string() == "dns error" {
            return "its name does not resolve".to_owned();
        }
        if let Some(mut error) = cause.downcast_ref::<io::Error>() {
            while let Some(inner) = inner(error) {
                error = inner;
            }
            return match inner(error) {
                Some(rustls::Error::InvalidCertificate(_)) => "its certificate is not valid".into(),
                Some(_) => "no TLS connection".into(),
                None => error.kind().to_string(),
            };
        }
    }
    "no connection".to_owned()
}

fn causes(error: &legacy::Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    let first: &(dyn Error + 'static) = error;
    successors(Some(first), |error| (*error).source())
}

/// What an I/O error was made from, which is not its source.
fn inner<E: Error + 'static>(error: &io::Error) -> Option<&E> {
    error.get_ref()?.downcast_ref()
}
