use std::{error, fmt};

use http::StatusCode;
use rmcp::transport::streamable_http_client::StreamableHttpError;

pub(crate) type BoxError = Box<dyn error::Error + Send + Sync>;

/// What [`TowerClient`](crate::TowerClient) fails with, inside rmcp's
/// [`StreamableHttpError::Client`].
///
/// Its [`source`](error::Error::source) is the error of the service or of its body, to be downcast.
/// Its text names all causes, since rmcp passes on no more than the text.
#[derive(Debug)]
pub struct Error(Kind);

#[derive(Debug)]
enum Kind {
    Request(BoxError),
    Service(BoxError),
    Body(BoxError),
    Status(StatusCode),
    EventTooLarge(usize),
}

impl Error {
    /// rmcp gave a URI or a header that is none.
    pub(crate) fn request(error: impl Into<http::Error>) -> Self {
        Self(Kind::Request(error.into().into()))
    }

    pub(crate) fn service(error: impl Into<BoxError>) -> Self {
        Self(Kind::Service(error.into()))
    }

    pub(crate) fn body(error: impl Into<BoxError>) -> Self {
        Self(Kind::Body(error.into()))
    }

    pub(crate) fn status(status: StatusCode) -> Self {
        Self(Kind::Status(status))
    }

    pub(crate) fn event_too_large(limit: usize) -> Self {
        Self(Kind::EventTooLarge(limit))
    }

    /// The status of the answer, if the server refused a GET or a DELETE with one that rmcp has no
    /// error for.
    pub fn http_status(&self) -> Option<StatusCode> {
        match self.0 {
            Kind::Status(status) => Some(status),
            _ => None,
        }
    }

    /// Whether an event was larger than the transport's `max_sse_event_size`.
    pub fn is_event_too_large(&self) -> bool {
        matches!(self.0, Kind::EventTooLarge(_))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Request(_) => f.write_str("the request cannot be made")?,
            Kind::Service(_) => f.write_str("the HTTP service failed")?,
            Kind::Body(_) => f.write_str("the answer broke off")?,
            Kind::Status(status) => return write!(f, "HTTP {status}"),
            Kind::EventTooLarge(limit) => {
                return write!(f, "an event is larger than {limit} bytes");
            }
        }
        let mut cause = error::Error::source(self);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match &self.0 {
            Kind::Request(error) | Kind::Service(error) | Kind::Body(error) => Some(&**error),
            Kind::Status(_) | Kind::EventTooLarge(_) => None,
        }
    }
}

impl From<Error> for StreamableHttpError<Error> {
    fn from(error: Error) -> Self {
        Self::Client(error)
    }
}
