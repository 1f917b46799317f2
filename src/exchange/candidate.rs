//! Recording a session as its handshake passes (rules B2 to B5, A4, A5).

use std::sync::Arc;

use bytes::Bytes;
use http::{
    Extensions, HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri,
    header::{ACCEPT, CONTENT_TYPE},
    request::Parts,
};
use http_body::Body;
use tracing::warn;

use crate::{
    Outcome, Principal, Recovery,
    body::{BufferedBody, RequestBody, ResponseBody, Tap},
    config::Shared,
    http_service::HttpService,
    mcp::{Id, InitializeResult, Message, MessageReader, SESSION_ID, is_large_initialize},
    recovery::{callers_headers, let_go},
    session::{Affinity, Endpoint, Epoch, Evicted, Initialize, Key, Session, uri_bytes},
};

/// What the headers of an `initialize` and its URI may take up, in bytes (rule K9).
const MAX_HEADERS: usize = 64 * 1024;

/// A POST that may be an `initialize`.
pub(crate) struct Candidate {
    endpoint: Endpoint,
    /// If it has a query.
    uri: Option<Uri>,
    principal: Option<Principal>,
    /// The session whose id the request carries, if any, and the epoch it was sent in (rule B5).
    renews: Option<(Arc<Session>, Arc<Epoch>)>,
    headers: HeaderMap,
    extensions: Extensions,
    /// `None` if it is larger than what is kept of any request (rule K1).
    body: Option<BufferedBody>,
}

/// What an answer to `initialize` makes of its session.
enum Recorded<L> {
    /// None.
    No,
    /// It is known, and this is to look at the rest of the answer.
    Yes(Option<(MessageReader, L)>),
    /// The request is too large to be remembered (rule K9).
    TooLarge,
}

impl Candidate {
    /// The candidate, unless the body shows that it is none after all.
    pub(crate) fn of_request<B: Body>(
        request: &Request<RequestBody<B>>,
        principal: Option<Principal>,
    ) -> Option<Self> {
        let body = request.body().kept();
        match body {
            Some(body) => drop(memchr::memmem::find(&body.data(), b"initialize")?),
            None if request.body().has_read(is_large_initialize) => {}
            None => return None,
        }
        let mut candidate = Self::new(request.uri(), request.headers().clone(), body, principal);
        candidate.extensions = request.extensions().clone();
        Some(candidate)
    }

    /// An `initialize` in a session that there is.
    pub(super) fn renewing(
        session: &Arc<Session>,
        epoch: &Arc<Epoch>,
        head: Parts,
        body: Option<&BufferedBody>,
    ) -> Self {
        let principal = session.principal().cloned();
        let mut candidate = Self::new(&head.uri, head.headers, body, principal);
        candidate.extensions = head.extensions;
        candidate.renews = Some((session.clone(), epoch.clone()));
        candidate
    }

    fn new(
        uri: &Uri,
        headers: HeaderMap,
        body: Option<&BufferedBody>,
        principal: Option<Principal>,
    ) -> Self {
        Self {
            endpoint: Endpoint::new(uri, &headers),
            uri: uri.query().map(|_| uri.clone()),
            principal,
            renews: None,
            headers,
            extensions: Extensions::new(),
            body: body.cloned(),
        }
    }

    /// Records the session, if the answer makes one, and passes the answer on.
    pub(crate) fn settle<S, B>(
        self,
        shared: &Arc<Shared<S>>,
        response: Response<S::ResBody>,
    ) -> Response<ResponseBody<S::ResBody>>
    where
        S: HttpService<B>,
        B: Body<Error: Send> + Send + 'static,
    {
        #[cfg(feature = "store")]
        crate::recovery::reconcile::<S, B>(shared);
        // It may have made room while the request was under way.
        let renews = self.renews.clone();
        if let Some((session, _)) = &renews {
            shared.has(session);
        }
        let (mut head, body) = response.into_parts();
        let (recorded, evicted) = self.record(shared, &mut head);
        evicted.iter().for_each(|it| let_go::<S, B>(shared, it));
        let body = match recorded {
            Recorded::Yes(Some((reader, look))) => {
                ResponseBody::wrapped(Tap::new(body, reader, look))
            }
            Recorded::Yes(None) => ResponseBody::untouched(body),
            Recorded::No => {
                // It was answered in the session that it was sent in.
                if let Some((session, epoch)) = &renews {
                    epoch.translate_response(&mut head.headers, session.id());
                }
                ResponseBody::untouched(body)
            }
            Recorded::TooLarge => {
                let recovery = Recovery::new(Outcome::NotRecorded, 0);
                head.extensions.insert(recovery);
                ResponseBody::untouched(body)
            }
        };
        Response::from_parts(head, body)
    }

    fn record<S>(
        self,
        shared: &Arc<Shared<S>>,
        head: &mut http::response::Parts,
    ) -> (Recorded<impl FnMut(&[u8]) -> bool + Send + use<S>>, Evicted)
    where
        S: Send + 'static,
    {
        let config = &shared.config;
        let Some(id) = assigned(head) else {
            return (Recorded::No, Evicted::new());
        };
        let renews = self.renews.as_ref().map(|(session, _)| session);
        let current = renews.map(|it| it.chain().current());
        let makes_none = current.is_some_and(|current| current.id() == Some(&id));
        let key = Key {
            id,
            endpoint: Arc::new(self.endpoint.copied()),
            principal: self.principal,
        };
        let too_large = |key: &Key, limit| {
            if makes_none {
                return (Recorded::No, Evicted::new());
            }
            // The caller has it all the same.
            shared.sessions.pass_over(key);
            warn!(
                host = key.endpoint.host(),
                limit, "initialize is too large, its session is not recorded"
            );
            (Recorded::TooLarge, Evicted::new())
        };
        let Some(body) = &self.body else {
            return too_large(&key, config.max_body_bytes);
        };
        let body = body.data();
        let message = Message::single(&body);
        let Some(initialize) = message.and_then(|it| it.initialize_id()) else {
            return (Recorded::No, Evicted::new());
        };
        if body.len() > config.max_initialize_bytes {
            return too_large(&key, config.max_initialize_bytes);
        }
        let mut initialize_request = Initialize {
            accept: combined(&self.headers, &ACCEPT),
            content_type: self.headers.get(CONTENT_TYPE).cloned(),
            // Not a slice of a larger buffer of the caller's.
            body: Bytes::copy_from_slice(&body),
            credentials: callers_headers(&self.headers),
            extensions: self.extensions,
        };
        let headers = initialize_request.bytes() - body.len();
        if headers + uri_bytes(self.uri.as_ref()) > MAX_HEADERS {
            return too_large(&key, MAX_HEADERS);
        }
        // The layer's own requests go where the session is (rules D8, E11), unless they would grow too large.
        let mut affinity = Affinity::default();
        affinity.learn(&head.headers);
        if headers + affinity.bytes() <= MAX_HEADERS {
            affinity.insert(&mut initialize_request.credentials);
        }
        let upstream = key.id.clone();
        let (session, evicted) = shared.sessions.record(
            key,
            renews,
            self.uri,
            initialize_request,
            config.pauses,
            config.table,
        );
        if *session.id() != upstream {
            head.headers.insert(SESSION_ID, session.id().clone());
        }
        shared.changed(&session);
        let reader = MessageReader::new(&head.headers, config.max_initialize_result_bytes);
        let shared = shared.clone();
        let look = move |message: &[u8]| {
            let is_answer = learn(session.chain().first(), &initialize, message);
            if is_answer {
                shared.changed(&session);
            }
            is_answer
        };
        (Recorded::Yes(reader.map(|reader| (reader, look))), evicted)
    }
}

/// All lines of a header as one, which means the same (RFC 9110, 5.3).
fn combined(headers: &HeaderMap, name: &HeaderName) -> Option<HeaderValue> {
    let lines: Vec<_> = headers.get_all(name).iter().collect();
    match &lines[..] {
        [] => None,
        [only] => Some(HeaderValue::clone(only)),
        lines => {
            let lines: Vec<_> = lines.iter().map(|line| line.as_bytes()).collect();
            HeaderValue::from_bytes(&lines.join(&b", "[..])).ok()
        }
    }
}

/// The session id that a 2xx answer assigns.
fn assigned(head: &http::response::Parts) -> Option<HeaderValue> {
    let id = head.headers.get(SESSION_ID)?;
    StatusCode::is_success(&head.status).then(|| id.clone())
}

/// Whether the message was the answer to `initialize`, which the epoch then knows.
fn learn(first: &Epoch, id: &Id, message: &[u8]) -> bool {
    let mut answer = None;
    let read = Message::each(message, |message| {
        if answer.is_none() && message.answers(id) {
            answer = Some(message.result().and_then(InitializeResult::parse));
        }
    });
    let Some(result) = answer.filter(|_| read.is_some()) else {
        return false;
    };
    if let Some(result) = result {
        first.learn_result(result);
    }
    true
}
