//! What is kept of a request of a recorded session, and how it is made what goes out.

use std::{
    marker::PhantomData,
    sync::{Arc, LazyLock, OnceLock},
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header::HeaderMap, request::Parts};
use http_body::Body;
use memchr::memmem::Finder;

use super::{LastEventId, allowance::Allowance, packed::PackedHead};
use crate::{
    Outcome, Recovery, Refusal,
    body::{BufferedBody, Ends, RequestBody},
    config::Shared,
    http_service::HttpService,
    mcp::{Id, LAST_EVENT_ID, LostResponse, Summary},
    session::{Epoch, LoggedAnswer, Session, Snapshot},
};

/// What the head of a request tells that belongs to a recorded session.
pub(crate) struct InSession {
    pub(crate) session: Arc<Session>,
    /// Whether its URI is the session's own to the letter, as nearly all are.
    pub(crate) has_own_uri: bool,
    pub(crate) has_last_event_id: bool,
}

/// One request of a recorded session.
pub(crate) struct Exchange<S, B> {
    pub(super) shared: Arc<Shared<S>>,
    pub(super) session: Arc<Session>,
    /// The epoch that the request is sent in.
    snapshot: Snapshot,
    /// That is another one than it arrived in.
    pub(super) crosses: bool,
    /// It started the recovery that it waited for.
    pub(super) led: bool,
    pub(super) has_last_event_id: bool,
    /// As the caller sent it: nothing is translated here.
    pub(super) head: PackedHead,
    /// `None` if it could not be buffered.
    pub(super) body: Option<BufferedBody>,
    /// What is noted of it then.
    ends: Option<Arc<Ends>>,
    /// Known before the answer is: it goes to the caller whatever it says.
    pub(super) outcome: Option<Outcome>,
    /// What the layer may still add to the request, once something was added.
    pub(super) allowance: Option<Allowance>,
    /// Made when first asked for, since most requests are answered without.
    summary: OnceLock<Box<Summary>>,
    marker: PhantomData<fn(B)>,
}

/// What to do with a request whose body has been collected.
pub(crate) enum Prepared {
    /// Send it.
    Send,
    /// Its session is not there to be used: wait for it first.
    Wait,
    /// There is no need to: this is what the caller gets.
    Answer(Box<Response<Bytes>>),
}

impl<S, B> Exchange<S, B>
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + 'static,
{
    /// What is kept of a request of this session, and whether the session is there to be used.
    // Inlined, since what it gives is large.
    #[inline(always)]
    pub(crate) fn new(
        shared: &Arc<Shared<S>>,
        of: InSession,
        request: &Request<RequestBody<B>>,
    ) -> (Self, bool) {
        let (snapshot, is_there) = of.session.chain().snapshot();
        let exchange = Self {
            head: PackedHead::new(request, of.has_own_uri),
            has_last_event_id: of.has_last_event_id,
            shared: shared.clone(),
            session: of.session,
            snapshot,
            crosses: false,
            led: false,
            body: request.body().kept().cloned(),
            ends: request.body().ends(),
            outcome: None,
            allowance: None,
            summary: OnceLock::new(),
            marker: PhantomData,
        };
        (exchange, is_there)
    }

    /// Decides about the request, and makes it what is to be sent.
    #[inline]
    pub(crate) fn prepare(&mut self, is_there: bool, headers: &mut HeaderMap) -> Prepared {
        if !is_there {
            return Prepared::Wait;
        }
        if self.may_be_initialized() {
            if let Some(accepted) = self.accepted() {
                return Prepared::Answer(Box::new(accepted));
            }
        }
        if !self.has_last_event_id {
            // All that nearly every request needs, and most do not need that.
            if let Some(epoch) = self.changing() {
                epoch.translate_request(headers);
            }
            return Prepared::Send;
        }
        match self.address(headers) {
            Ok(()) => Prepared::Send,
            Err(response) => Prepared::Answer(response),
        }
    }

    /// Whether it is worth looking whether this is the caller's `notifications/initialized`, which a
    /// later epoch's handshake has sent already (rule F3). It holds next to nothing, or a little `_meta`.
    #[inline]
    fn may_be_initialized(&self) -> bool {
        const LARGEST: usize = 1024;
        static NAME: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("initialized"));
        static ESCAPE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\\u"));

        self.changing()
            .is_some_and(|epoch| epoch.handshake().is_some())
            && self.body.as_ref().is_some_and(|body| {
                body.len() <= LARGEST && {
                    let data = body.data();
                    // A letter may be escaped (rule C4).
                    NAME.find(&data).is_some() || ESCAPE.find(&data).is_some()
                }
            })
    }

    /// Makes the request what goes out in its epoch (rule C1); or gives the answer, where what it
    /// asks for is gone (rule G4).
    pub(super) fn address(&mut self, headers: &mut HeaderMap) -> Result<(), Box<Response<Bytes>>> {
        match self.last_event_id(headers) {
            LastEventId::Keep => self.epoch().translate_request(headers),
            LastEventId::Drop => {
                headers.remove(LAST_EVENT_ID);
                self.epoch().translate_request(headers);
            }
            LastEventId::Refused => {
                let refused = Outcome::NotReplayed(Refusal::LastEventId);
                if !self.may_ask_where_it_was() {
                    return Err(Box::new(self.mark(unknown_session(), refused)));
                }
                self.outcome = Some(refused);
            }
            LastEventId::Lost(answer) => return Err(self.lost(&answer)),
        }
        if self.outcome == Some(Outcome::Replayed) {
            if let Some(handshake) = self.epoch().handshake() {
                handshake.affinity.replay(headers, &handshake.headers);
            }
        }
        Ok(())
    }

    /// Whether the server shall say itself that the session is gone which an event was of: as long as
    /// the caller's id names that to it, and no other (rules G2, A5).
    fn may_ask_where_it_was(&self) -> bool {
        let (first, session) = (self.session.chain().first(), &self.session);
        let names_it = self.epoch().number() <= 1 && first.id() == Some(session.id());
        names_it && !self.shared.sessions.calls_another(session)
    }

    /// What is said to a GET whose answer is gone (rule G4). That needs no session.
    pub(super) fn lost_answer(&self, headers: &HeaderMap) -> Option<Box<Response<Bytes>>> {
        match self.last_event_id(headers) {
            LastEventId::Lost(answer) => Some(self.lost(&answer)),
            _ => None,
        }
    }

    fn lost(&self, answer: &LoggedAnswer) -> Box<Response<Bytes>> {
        let requests = answer.lost();
        answer.pending.give_up();
        let lost = LostResponse::SessionExpired.stream(&requests);
        Box::new(self.mark(lost, Outcome::AnswerLost))
    }

    /// The head of the request as the caller sent it.
    pub(super) fn unpack(&self) -> Parts {
        self.head.unpack(self.session.uri())
    }

    /// The body to send, once more, if it was buffered.
    pub(super) fn body(&self) -> RequestBody<B> {
        RequestBody::buffered(self.body.clone().unwrap_or_default())
    }

    /// Whether the id that the request's epoch had upstream is another caller's by now, so that the
    /// request must not be sent (rule A5).
    pub(super) fn is_taken(&self) -> bool {
        let sessions = &self.shared.sessions;
        match *self.head.method() {
            Method::DELETE => sessions.ends_anothers(&self.session, self.epoch()),
            _ => sessions.is_anothers(&self.session, self.epoch()),
        }
    }

    /// The same of a request that has been sent: a server that does not tell its sessions apart is not
    /// fought.
    pub(super) fn is_given_away(&self) -> bool {
        self.shared.sessions.tells_apart(&self.session) && self.is_taken()
    }

    /// Whether the session has ended while the request waited to be sent in its new epoch, whose id
    /// may be another's by now.
    pub(super) fn has_ended(&self) -> bool {
        self.epoch().number() > 0 && !self.shared.has(&self.session)
    }

    /// What a `Last-Event-ID` among these headers comes to in the request's epoch.
    pub(super) fn last_event_id(&self, headers: &HeaderMap) -> LastEventId {
        if !self.has_last_event_id {
            return LastEventId::Keep;
        }
        LastEventId::of(
            &self.session,
            self.head.method(),
            headers,
            self.epoch().number(),
            self.crosses,
            self.shared.config.answer_lost_requests,
        )
    }

    /// The epoch that the request is sent in.
    pub(crate) fn epoch(&self) -> &Arc<Epoch> {
        self.session.chain().epoch(&self.snapshot)
    }

    /// The same, unless requests and answers pass in it as they are, as in most.
    #[inline]
    pub(super) fn changing(&self) -> Option<&Arc<Epoch>> {
        self.session.chain().changing(&self.snapshot)
    }

    pub(super) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// From now on the request is one of this epoch.
    pub(super) fn enter(&mut self, snapshot: Snapshot) {
        let arrived = self.epoch().number();
        self.crosses |= self.session.chain().epoch(&snapshot).number() != arrived;
        self.snapshot = snapshot;
    }

    /// What the body holds. A body that was not buffered, or is no JSON-RPC, holds nothing.
    pub(super) fn summary(&self) -> &Summary {
        self.summary.get_or_init(|| {
            let body = self.body.as_ref();
            let summary = body.and_then(|body| Summary::of(&body.data()));
            Box::new(summary.unwrap_or_default())
        })
    }

    /// Whether the request makes a session of its own (rules B5, D7).
    pub(super) fn is_initialize(&self) -> bool {
        match &self.ends {
            None => self.summary().is_initialize,
            Some(ends) => ends.is_initialize(),
        }
    }

    /// The requests whose responses are waited for. Of a body that was not buffered the id is known
    /// once it has been sent.
    pub(super) fn requests(&self) -> Arc<[Id]> {
        match &self.ends {
            None => self.summary().requests.clone(),
            Some(_) => self.large_request_id().into_iter().collect(),
        }
    }

    /// The id of a request that was not buffered.
    pub(super) fn large_request_id(&self) -> Option<Id> {
        self.ends.as_ref()?.request_id()
    }

    /// Notes in a response what happened (rule M1).
    pub(super) fn mark<T>(&self, mut response: Response<T>, outcome: Outcome) -> Response<T> {
        let epoch = self.session.chain().current().number();
        response
            .extensions_mut()
            .insert(Recovery::new(outcome, epoch));
        response
    }
}

/// What a server says to a session that it does not know, where it cannot be asked: it has given the
/// id to another.
pub(crate) fn unknown_session() -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}
