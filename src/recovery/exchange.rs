//! One request of a recorded session, and what becomes of an answer that needs no recovery.

use std::{
    marker::PhantomData,
    sync::{Arc, OnceLock},
};

use http::{HeaderMap, Method, Response, header::CONTENT_LENGTH, request::Parts};
use http_body::Body;

use super::{
    Candidate, Delivered, Inner, Outcome, Recovery, Refusal, Shared,
    client::{Client, UpstreamSession},
    packed::PackedHead,
    reconnect::Reconnector,
};
use crate::{
    body::{AnswerStream, BufferedBody, ListeningStream, RequestBody, ResponseBody},
    mcp::{
        EventIds, Id, LAST_EVENT_ID, LostResponse, Messages, Summary, is_event_stream, session_id,
    },
    session::{Epoch, Flight, Logged, OrphanTimer, Session, Snapshot, StateChange, StreamOrigin},
};

/// What is known of a request of a recorded session while it is under way.
pub(crate) struct Exchange<S, B> {
    pub(super) shared: Arc<Shared<S>>,
    pub(super) session: Arc<Session>,
    pub(super) snapshot: Snapshot,
    /// As the caller sent it: nothing is translated here.
    pub(super) head: PackedHead,
    /// `None` if it could not be kept.
    pub(super) body: Option<BufferedBody>,
    /// Known before the answer is: it goes to the caller whatever it says.
    pub(super) outcome: Option<Outcome>,
    /// Made when first asked for, since most requests are answered without.
    summary: OnceLock<Box<Summary>>,
    marker: PhantomData<fn(B)>,
}

/// What to do with a request of a recorded session.
pub(crate) enum Plan<B: Body> {
    /// Send it with this body; the exchange knows what to do with the answer.
    Send(RequestBody<B>),
    /// Wait for a recovery first.
    Wait(Option<RequestBody<B>>, Flight),
    /// Say that the answers to these requests are lost.
    Lost(Arc<[Id]>),
}

/// What is to be done about a `Last-Event-ID` in an epoch (rules G2, G4).
pub(super) enum LastEventId {
    /// There is none, or it belongs here, or nobody knows.
    Keep,
    /// It belongs to a listening stream that is gone: a new one will do.
    Anew,
    /// The answers to these requests are gone.
    Lost(Arc<[Id]>),
    /// They are gone, and the server shall say so itself.
    Refused,
}

impl<S, B> Exchange<S, B>
where
    S: Inner<B>,
    B: Body + Send + 'static,
    B::Error: Send,
{
    /// Decides about a request whose body has been collected, and makes its head what is to be
    /// sent.
    pub(crate) fn plan(
        shared: &Arc<Shared<S>>,
        session: Arc<Session>,
        parts: &mut Parts,
        body: Result<BufferedBody, RequestBody<B>>,
    ) -> (Self, Plan<B>) {
        let (snapshot, flight) = session.chain().snapshot();
        let (kept, unbuffered) = match body {
            Ok(kept) => (Some(kept), None),
            Err(unbuffered) => (None, Some(unbuffered)),
        };
        let mut exchange = Self {
            shared: shared.clone(),
            session,
            snapshot,
            head: PackedHead::new(parts),
            body: kept,
            outcome: None,
            summary: OnceLock::new(),
            marker: PhantomData,
        };
        let plan = match flight {
            Some(flight) => Plan::Wait(unbuffered, flight),
            None => match exchange.address(parts, None) {
                Ok(()) => Plan::Send(exchange.outgoing_body(unbuffered)),
                Err(requests) => Plan::Lost(requests),
            },
        };
        (exchange, plan)
    }

    /// Makes the head what goes out in `epoch`, by default the one that the request was made for.
    /// Gives the requests whose answers it asks for in vain, if so.
    pub(super) fn address(
        &mut self,
        parts: &mut Parts,
        epoch: Option<&Epoch>,
    ) -> Result<(), Arc<[Id]>> {
        let epoch = epoch.unwrap_or(self.epoch());
        match self.last_event_id_in(&parts.headers, epoch) {
            LastEventId::Keep => epoch.translate_request(&mut parts.headers),
            LastEventId::Anew => {
                parts.headers.remove(LAST_EVENT_ID);
                epoch.translate_request(&mut parts.headers);
            }
            // The caller's id names a session that is gone, so that is what the server will say.
            LastEventId::Refused => {
                self.outcome = Some(Outcome::NotReplayed(Refusal::LastEventId));
            }
            LastEventId::Lost(requests) => return Err(requests),
        }
        Ok(())
    }

    /// The body to be sent: `unbuffered` if it could not be kept.
    pub(super) fn outgoing_body(&self, unbuffered: Option<RequestBody<B>>) -> RequestBody<B> {
        unbuffered.unwrap_or_else(|| RequestBody::buffered(self.body.clone().unwrap_or_default()))
    }

    /// What a `Last-Event-ID` among these headers of the request comes to in `epoch`.
    pub(super) fn last_event_id_in(&self, headers: &HeaderMap, epoch: &Epoch) -> LastEventId {
        let get = self.head.method() == Method::GET;
        let crosses = epoch.number() != self.epoch().number();
        if !get && !crosses {
            return LastEventId::Keep;
        }
        let Some(last_event_id) = headers.get(LAST_EVENT_ID) else {
            return LastEventId::Keep;
        };
        if !get {
            // It means nothing there, but it does not cross epochs all the same.
            return LastEventId::Anew;
        }
        match self.session.find_event(last_event_id) {
            // An id that the new epoch has used, too, was of the old one when the caller sent it.
            Logged::Listening { epoch: of } if crosses || of != epoch.number() => LastEventId::Anew,
            Logged::Answer {
                epoch: of,
                requests,
            } if of != epoch.number() => match self.shared.config.answer_lost_requests {
                true => LastEventId::Lost(requests),
                false => LastEventId::Refused,
            },
            _ if crosses => LastEventId::Refused,
            _ => LastEventId::Keep,
        }
    }

    /// The epoch that the request is first sent in.
    pub(crate) fn epoch(&self) -> &Arc<Epoch> {
        self.session.chain().epoch(&self.snapshot)
    }

    /// What tells that the request was left behind in `epoch`, if somebody may wait for its answer
    /// by id.
    pub(crate) fn orphan_timer(&self, epoch: &Arc<Epoch>) -> Option<OrphanTimer> {
        let config = &self.shared.config;
        (config.answer_lost_requests && self.head.method() == Method::POST)
            .then(|| OrphanTimer::new(epoch.clone(), config.orphan_timeout))
    }

    /// What the body holds. A body that was not kept, or is no JSON-RPC, holds nothing.
    pub(crate) fn summary(&self) -> &Summary {
        self.summary.get_or_init(|| {
            let summary = self.body.as_ref().and_then(|body| {
                let messages = Messages::parse(&body.data())?.summary();
                Some(Box::new(messages))
            });
            summary.unwrap_or_default()
        })
    }

    /// Whether this answer may be about the session, and so has to be examined.
    pub(crate) fn examines<R>(&self, response: &Response<R>) -> bool {
        let status = response.status();
        self.outcome.is_none()
            && !status.is_success()
            // A DELETE is never recovered (rules D7, I1).
            && self.head.method() != Method::DELETE
            && self.shared.config.classify.examines(status)
    }

    /// Passes on the answer to the request as it was sent in `epoch`.
    pub(crate) fn deliver(
        &self,
        mut response: Response<S::ResBody>,
        epoch: &Arc<Epoch>,
    ) -> Delivered<S, B> {
        match self.outcome {
            Some(outcome) => response = self.mark(response, outcome),
            None => self.session.chain().lives(epoch),
        }
        let status = response.status();
        let assigned = self.assigned(response.headers(), epoch);
        epoch.translate_response(response.headers_mut(), self.session.id());
        match *self.head.method() {
            Method::DELETE if status.is_success() || status == http::StatusCode::NOT_FOUND => {
                self.shared.sessions.forget(&self.session);
                self.end_successor(epoch);
            }
            Method::POST if status.is_success() => {
                if let Some(body) = &self.body {
                    if assigned && self.summary().is_initialize {
                        let candidate = Candidate::of(&self.shared, &self.head.unpack(), body);
                        if let Some(candidate) = candidate {
                            return candidate.settle(response);
                        }
                    }
                    let changes = StateChange::in_body(body);
                    self.session
                        .apply(changes, self.shared.config.max_subscriptions);
                }
                if is_event_stream(response.headers()) {
                    let requests = self.summary().requests.clone();
                    return self.wrap_answers(response, epoch, requests, false);
                }
            }
            Method::GET if status.is_success() && is_event_stream(response.headers()) => {
                return self.wrap_get(response, epoch);
            }
            _ => {}
        }
        response.map(ResponseBody::untouched)
    }

    /// Ends the session that a recovery made while this DELETE was on its way to the one before:
    /// the caller wants none any more.
    fn end_successor(&self, ended: &Epoch) {
        let current = self.session.chain().current();
        if current.number() != ended.number() {
            let recorded = &self.session.initialize().headers;
            Client::<S, B>::new(self.shared.clone(), recorded, &self.head.unpack()).delete(
                &UpstreamSession::of(&current),
                self.shared.config.recovery_timeout,
            );
        }
    }

    /// Whether the answer assigns another id than the session's (rule B5).
    fn assigned(&self, headers: &HeaderMap, epoch: &Epoch) -> bool {
        session_id(headers).is_some_and(|id| Some(id) != epoch.id() && id != self.session.id())
    }

    fn wrap_get(&self, response: Response<S::ResBody>, epoch: &Arc<Epoch>) -> Delivered<S, B> {
        let last_event_id = self.head.header(&LAST_EVENT_ID);
        match last_event_id.map(|id| self.session.find_event(&id)) {
            Some(Logged::Answer {
                epoch: of,
                requests,
            }) if of == epoch.number() => self.wrap_answers(response, epoch, requests, true),
            // Whatever it resumes, the layer could not open it anew.
            Some(Logged::Unknown) => response.map(ResponseBody::untouched),
            _ => {
                let reconnect = Reconnector::new(self, epoch);
                let patience = self.shared.config.orphan_timeout;
                extended(response, |body| {
                    ListeningStream::new(body, reconnect, patience)
                })
            }
        }
    }

    fn wrap_answers(
        &self,
        response: Response<S::ResBody>,
        epoch: &Arc<Epoch>,
        requests: Arc<[Id]>,
        resumed: bool,
    ) -> Delivered<S, B> {
        if requests.is_empty() {
            return response.map(ResponseBody::untouched);
        }
        let orphan_timer = self
            .shared
            .config
            .answer_lost_requests
            .then(|| OrphanTimer::new(epoch.clone(), self.shared.config.orphan_timeout));
        let waiting = requests.to_vec();
        let (session, epoch) = (self.session.clone(), epoch.number());
        let limit = self.shared.config.max_event_ids;
        let mut origin = StreamOrigin { epoch, requests };
        let remember = move |ids: &EventIds, waiting: &[Id]| {
            if waiting.len() != origin.requests.len() {
                origin.requests = waiting.into();
            }
            session.remember(ids, &origin, limit);
        };
        extended(response, |body| {
            AnswerStream::new(body, waiting, resumed, remember, orphan_timer)
        })
    }

    /// A stream that says that the answers to these requests are lost (rule G4).
    pub(crate) fn lost_stream(&self, requests: &[Id]) -> Response<bytes::Bytes> {
        self.mark(
            LostResponse::SessionExpired.stream(requests),
            Outcome::AnswerLost,
        )
    }

    /// Notes in a response what happened (rule M1).
    pub(super) fn mark<T>(&self, mut response: Response<T>, outcome: Outcome) -> Response<T> {
        let epoch = self.session.chain().current().number();
        response
            .extensions_mut()
            .insert(Recovery::new(outcome, epoch));
        response
    }

    /// Why the request is not to be sent again, if so (rules F2, F4, F5).
    pub(super) fn refusal(&self) -> Option<Refusal> {
        let Some(body) = &self.body else {
            return Some(Refusal::BodyNotBuffered);
        };
        if self.summary().has_response {
            return Some(Refusal::Response);
        }
        let replay_when = self.shared.config.replay_when.as_ref()?;
        let replayable = Messages::parse(&body.data())
            .is_none_or(|messages| messages.as_slice().iter().all(|it| replay_when(it)));
        (!replayable).then_some(Refusal::ReplayWhen)
    }
}

/// A body that the layer may extend has no length (rule G8).
fn extended<R, T>(mut response: Response<R>, wrap: impl FnOnce(R) -> T) -> Response<ResponseBody<R>>
where
    R: Body,
    T: Body<Data = bytes::Bytes, Error = R::Error> + Send + 'static,
{
    response.headers_mut().remove(CONTENT_LENGTH);
    response.map(|body| ResponseBody::wrapped(wrap(body)))
}
