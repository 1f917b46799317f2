//! What rmcp wants to have sent, as an HTTP request.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, header};
use rmcp::transport::streamable_http_client::StreamableHttpError;

use crate::{Error, mime};

pub(crate) const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
pub(crate) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// What the transport alone decides about. (`mcp-protocol-version` it puts in among the custom
/// headers.)
const RESERVED: [HeaderName; 3] = [header::ACCEPT, SESSION_ID, LAST_EVENT_ID];

/// What rmcp gives with every request, whatever its method.
pub(crate) struct Outline {
    pub(crate) uri: Arc<str>,
    pub(crate) session: Option<Arc<str>>,
    pub(crate) token: Option<String>,
    pub(crate) custom: HashMap<HeaderName, HeaderValue>,
}

impl Outline {
    /// The message goes to the server in a POST.
    pub(crate) fn post(
        self,
        message: Vec<u8>,
    ) -> Result<Request<Bytes>, StreamableHttpError<Error>> {
        let mut request = self.accepting(Method::POST, message.into())?;
        // A user who says something else knows their server.
        let headers = request.headers_mut();
        headers
            .entry(header::CONTENT_TYPE)
            .or_insert(HeaderValue::from_static(mime::JSON));
        Ok(request)
    }

    /// A GET opens an event stream, or resumes the one that the event was in.
    pub(crate) fn get(
        self,
        last_event_id: Option<&str>,
    ) -> Result<Request<Bytes>, StreamableHttpError<Error>> {
        let mut request = self.accepting(Method::GET, Bytes::new())?;
        if let Some(id) = last_event_id {
            let id = HeaderValue::from_str(id).map_err(Error::request)?;
            request.headers_mut().insert(LAST_EVENT_ID, id);
        }
        Ok(request)
    }

    /// A DELETE ends the session.
    pub(crate) fn delete(self) -> Result<Request<Bytes>, StreamableHttpError<Error>> {
        self.request(Method::DELETE, Bytes::new())
    }

    fn accepting(
        self,
        method: Method,
        body: Bytes,
    ) -> Result<Request<Bytes>, StreamableHttpError<Error>> {
        let mut request = self.request(method, body)?;
        let accept = HeaderValue::from_static("text/event-stream, application/json");
        request.headers_mut().insert(header::ACCEPT, accept);
        Ok(request)
    }

    fn request(
        self,
        method: Method,
        body: Bytes,
    ) -> Result<Request<Bytes>, StreamableHttpError<Error>> {
        if let Some(name) = self.custom.keys().find(|name| RESERVED.contains(name)) {
            return Err(StreamableHttpError::ReservedHeaderConflict(
                name.to_string(),
            ));
        }
        let mut request = Request::builder().method(method).uri(&*self.uri);
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, secret(&format!("Bearer {token}"))?);
        }
        for (name, value) in self.custom {
            request = request.header(name, value);
        }
        if let Some(session) = &self.session {
            request = request.header(SESSION_ID, secret(session)?);
        }
        Ok(request.body(body).map_err(Error::request)?)
    }
}

/// What shows up neither in `Debug` nor in a header compression's table.
fn secret(value: &str) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::from_str(value).map_err(Error::request)?;
    value.set_sensitive(true);
    Ok(value)
}
