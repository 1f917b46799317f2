//! Why the upstream gave no answer, in one line that holds no secret.

use std::{error::Error, fmt, io, iter::successors};

use http::StatusCode;
use hyper_util::client::legacy;
use tower::timeout::error::Elapsed;

use super::body::Broken;

/// What became of a request that was not answered.
#[derive(Debug)]
pub enum Unanswered {
    /// It could not be sent, or its connection broke.
    Failed(legacy::Error),
    /// The proxy stops.
    Stopped,
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.failure().1)
    }
}

impl Error for Unanswered {}

impl Unanswered {
    /// Whether the upstream may have got the request, and executed it.
    pub fn was_sent(&self) -> bool {
        match self {
            Self::Failed(error) => !error.is_connect() && broken_body(error).is_none(),
            Self::Stopped => true,
        }
    }

    /// The status and the text of the answer.
    pub fn failure(&self) -> (StatusCode, String) {
        let error = match self {
            Self::Failed(error) => error,
            Self::Stopped => {
                let text = "the proxy stops".to_owned();
                return (StatusCode::SERVICE_UNAVAILABLE, text);
            }
        };
        if let Some(broken) = broken_body(error) {
            return (refused_body(broken), broken.to_string());
        }
        let text = match error.is_connect() {
            true => format!("the upstream cannot be reached: {}", reason(error)),
            false => "the upstream ended the connection before it answered".to_owned(),
        };
        (StatusCode::BAD_GATEWAY, text)
    }
}

/// The status of the answer to a request whose body has no end.
pub fn refused_body(broken: Broken) -> StatusCode {
    match broken {
        Broken::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Broken::TooSlow => StatusCode::REQUEST_TIMEOUT,
        Broken::BrokeOff => StatusCode::BAD_REQUEST,
    }
}

/// Whether there was no connection, and may be one soon. A certificate that is not valid stays so.
pub fn may_pass(error: &legacy::Error) -> bool {
    error.is_connect() && !causes(error).any(|cause| tls_error(cause).is_some())
}

fn broken_body(error: &legacy::Error) -> Option<Broken> {
    causes(error).find_map(|cause| cause.downcast_ref().copied())
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
        match tls_error(cause) {
            Some(rustls::Error::InvalidCertificate(_)) => {
                return "its certificate is not valid".to_owned();
            }
            Some(_) => return "no TLS connection".to_owned(),
            None => {}
        }
        if let Some(error) = cause.downcast_ref::<io::Error>() {
            return innermost(error).kind().to_string();
        }
    }
    "no connection".to_owned()
}

fn causes(error: &legacy::Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    let first: &(dyn Error + 'static) = error;
    successors(Some(first), |error| (*error).source())
}

fn tls_error<'a>(cause: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    inner(innermost(cause.downcast_ref()?))
}

/// I/O errors are made from I/O errors.
fn innermost(mut error: &io::Error) -> &io::Error {
    while let Some(inner) = inner(error) {
        error = inner;
    }
    error
}

/// What an I/O error was made from, which is not its source.
fn inner<E: Error + 'static>(error: &io::Error) -> Option<&E> {
    error.get_ref()?.downcast_ref()
}
