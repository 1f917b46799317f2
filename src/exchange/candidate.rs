//! Recording a session as its handshake passes (rules B2 to B5).

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Response, header::CONTENT_LENGTH, request::Parts};
use http_body::Body;

use crate::{
    body::{BufferedBody, ResponseBody, Tap},
    config::Shared,
    mcp::{Id, InitializeResult, Message, MessageReader, SESSION_ID},
    session::{Endpoint, Epoch, Initialize, Session},
};

/// A session-less POST that may be an `initialize`.
pub(crate) struct Candidate<S> {
    shared: Arc<Shared<S>>,
    endpoint: Endpoint,
    headers: HeaderMap,
    body: BufferedBody,
}

impl<S: 'static> Candidate<S> {
    /// The candidate, unless the body shows that it is none after all.
    pub(crate) fn of(shared: &Arc<Shared<S>>, parts: &Parts, body: &BufferedBody) -> Option<Self> {
        memchr::memmem::find(&body.data(), b"initialize")?;
        Some(Self {
            shared: shared.clone(),
            endpoint: Endpoint::new(&parts.uri, &parts.headers),
            headers: parts.headers.clone(),
            body: body.clone(),
        })
    }

    /// Records the session, if the answer makes one, and passes the answer on.
    pub(crate) fn settle<R>(self, response: Response<R>) -> Response<ResponseBody<R>>
    where
        R: Body + Send + 'static,
        R::Data: Send,
    {
        let (head, body) = response.into_parts();
        let body = match self.record(&head) {
            Some((reader, look)) => ResponseBody::wrapped(Tap::new(body, reader, look)),
            None => ResponseBody::untouched(body),
        };
        Response::from_parts(head, body)
    }

    /// What is to look at the answer's body, if the answer makes a session.
    fn record(
        mut self,
        head: &http::response::Parts,
    ) -> Option<(MessageReader, impl FnMut(&[u8]) -> bool + Send + use<S>)> {
        let id = head
            .headers
            .get(SESSION_ID)
            .filter(|_| head.status.is_success())?;
        let body = self.body.data();
        let initialize = Message::single(&body)?.initialize_id()?;
        self.headers.remove(SESSION_ID);
        self.headers.remove(CONTENT_LENGTH);
        let config = &self.shared.config;
        let session = Arc::new(Session::new(
            self.endpoint,
            id.clone(),
            Initialize {
                headers: self.headers,
                // Not a slice of a larger buffer of the caller's.
                body: Bytes::copy_from_slice(&body),
            },
            config.budget,
        ));
        let first = session.chain().current();
        self.shared.sessions.insert(session, config.max_sessions);
        let reader = MessageReader::new(&head.headers, config.max_initialize_result_bytes)?;
        Some((reader, move |message: &[u8]| {
            learn(&first, &initialize, message)
        }))
    }
}

/// Whether the message was the answer to `initialize`, which the epoch then knows.
fn learn(first: &Epoch, id: &Id, message: &[u8]) -> bool {
    let mut answer = None;
    let read = Message::each(message, |message| {
        if answer.is_none() && message.answers(id) {
            answer = Some(message);
        }
    });
    let Some(answer) = answer.filter(|_| read.is_some()) else {
        return false;
    };
    if let Some(result) = answer.result().and_then(InitializeResult::parse) {
        first.learn_result(result);
    }
    true
}
