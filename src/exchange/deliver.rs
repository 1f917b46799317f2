//! Passes on an answer that needs no recovery, and learns from it (rules C2, I1, B5, H1).

use std::sync::{Arc, LazyLock};

use http::{HeaderMap, Method, Response, StatusCode};
use http_body::Body;
use memchr::memmem::Finder;

use super::{Candidate, Exchange};
use crate::{
    Outcome,
    body::{BufferedBody, ResponseBody, Tap},
    config::Shared,
    http_service::{HttpService, LayerResponse},
    mcp::{
        AnswerHeaders, LostResponse, MessageReader, Skimmed, carries_nothing, is_batch,
        is_event_stream, is_large_initialize,
    },
    recovery,
    session::{PendingChanges, Session, StateChange},
};

/// Notes the changes of state that the server accepts, as the messages of an answer pass.
pub(super) type Accepting = (MessageReader, Box<dyn FnMut(&[u8]) -> bool + Send>);

/// Notes a change of state that the server accepted in this epoch (rule H1).
pub(super) fn accept<S, B>(
    shared: &Arc<Shared<S>>,
    session: &Arc<Session>,
    epoch: u64,
    change: StateChange,
) where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + 'static,
{
    #[cfg(feature = "store")]
    recovery::reconcile::<S, B>(shared);
    session.apply(change.clone(), shared.config.max_subscriptions);
    shared.changed(session);
    recovery::make_room::<S, B>(shared);
    // Accepted by a session that has been replaced: the new one is told, too.
    if shared.config.restore_state && session.chain().current().number() != epoch {
        recovery::tell::<S, B>(shared, session, vec![change]);
    }
}

impl<S, B> Exchange<S, B>
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + 'static,
{
    /// Whether this answer may be about the session, and so has to be examined.
    pub(super) fn is_suspicious<R>(&self, response: &Response<R>) -> bool {
        let status = response.status();
        !status.is_success()
            && !matches!(self.outcome, Some(outcome) if outcome != Outcome::Replayed)
            // Nothing else is ever recovered (rules D7, I1).
            && self.may_show_expiry()
            && self.shared.config.classify.examines(status)
    }

    /// Passes on the answer.
    pub(super) fn deliver(&self, mut response: Response<S::ResBody>) -> LayerResponse<S, B> {
        if self.outcome.is_some() || self.led {
            response = self.told(response);
        }
        let status = response.status();
        let said = AnswerHeaders::of(response.headers());
        match *self.head.method() {
            Method::DELETE => self.note_end(status),
            _ if status.is_success() => {
                self.note_success();
                if said.has_session_id {
                    if let Some(candidate) = self.candidate() {
                        return candidate.settle(&self.shared, response);
                    }
                }
            }
            _ => {}
        }
        if said.has_session_id {
            self.translate(response.headers_mut());
        }
        let streams = said.is_event_stream && !carries_nothing(status);
        match *self.head.method() {
            Method::POST if status.is_success() => {
                if status == StatusCode::ACCEPTED && self.may_hold_requests() {
                    // Their answers are to come on a listening stream.
                    let epoch = self.epoch().number();
                    self.session.accept(epoch, &self.requests());
                }
                // What came in several pieces is copied for this, so only if there is need to.
                let is_looked_at = |body: &&BufferedBody| {
                    streams
                        || body.len() <= PendingChanges::MAX_MESSAGE
                        || is_batch(&body.beginning())
                };
                let body = self.body.as_ref().filter(is_looked_at);
                let body = body.map(BufferedBody::data);
                let body = body.as_deref();
                // What the answer in a stream is has to be known, which tells the method, too.
                let message = body.filter(|_| streams).and_then(Skimmed::of);
                let accepting = self.accepting(body, message.as_ref(), &response);
                if streams {
                    return self.answer_stream(response, said, message.as_ref(), accepting);
                }
                if let Some((reader, look)) = accepting {
                    return response
                        .map(|body| ResponseBody::wrapped(Tap::new(body, reader, look)));
                }
            }
            Method::GET if status.is_success() && streams => {
                return self.get_stream(response, said);
            }
            _ => {}
        }
        response.map(ResponseBody::untouched)
    }

    /// The answer, with what became of the request before it came.
    #[cold]
    fn told<R>(&self, mut response: Response<R>) -> Response<R> {
        if let Some(outcome) = self.outcome {
            response = self.mark(response, outcome);
        }
        self.bring_cookies(response)
    }

    fn translate(&self, headers: &mut HeaderMap) {
        if let Some(epoch) = self.changing() {
            epoch.translate_response(headers, self.session.id());
        }
    }

    /// A 2xx proves that the session lives, and, if it answers an `initialize`, that another does
    /// (rule J4).
    fn note_success(&self) {
        let unproven = self.changing().filter(|epoch| epoch.is_unproven());
        if let Some(epoch) = unproven.filter(|_| !self.is_initialize()) {
            #[cfg(feature = "store")]
            if epoch.is_restored() {
                let headers = recovery::callers_headers(&self.unpack().headers);
                epoch.learn_credentials(headers);
                self.session.recount();
                recovery::make_room::<S, B>(&self.shared);
            }
            self.session.chain().lives(epoch);
        }
    }

    /// What is to look at the answers, if the request asks for changes of state (rule H1).
    #[inline]
    fn accepting<R>(
        &self,
        body: Option<&[u8]>,
        message: Option<&Skimmed<'_>>,
        response: &Response<R>,
    ) -> Option<Accepting> {
        let pending = PendingChanges::in_body(body?, message)?;
        self.accepting_changes(pending, response.headers(), response.status())
    }

    #[cold]
    fn accepting_changes(
        &self,
        mut pending: PendingChanges,
        headers: &HeaderMap,
        status: StatusCode,
    ) -> Option<Accepting> {
        let streams = is_event_stream(headers);
        if streams || status == StatusCode::ACCEPTED {
            // The answers may come on a listening stream, or on the stream resumed.
            self.session.ask(&pending);
        }
        let limit = self.shared.config.max_initialize_result_bytes;
        let reader = MessageReader::new(headers, limit)?;
        let (shared, session) = (self.shared.clone(), self.session.clone());
        let epoch = self.epoch().number();
        let look = move |messages: &[u8]| {
            if streams {
                // They are not to be found a second time.
                session.answered_changes(messages);
            }
            pending.look(messages, |change| {
                accept::<S, B>(&shared, &session, epoch, change);
            })
        };
        Some((reader, Box::new(look)))
    }

    /// The same for a stream resumed, which answers an earlier request.
    pub(super) fn accepting_earlier(&self, headers: &HeaderMap) -> Option<Accepting> {
        if !self.session.is_asking() {
            return None;
        }
        let limit = self.shared.config.max_initialize_result_bytes;
        let reader = MessageReader::new(headers, limit)?;
        let (shared, session) = (self.shared.clone(), self.session.clone());
        let epoch = self.epoch().number();
        let look = move |messages: &[u8]| {
            for change in session.answered_changes(messages) {
                accept::<S, B>(&shared, &session, epoch, change);
            }
            !session.is_asking()
        };
        Some((reader, Box::new(look)))
    }

    /// An `initialize` that carried the session's id and was answered with one makes a session of
    /// its own (rule B5).
    fn candidate(&self) -> Option<Candidate> {
        static INITIALIZE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("initialize"));

        // Some servers say the session's id with every answer, so that the body has to tell.
        let may_be = |body: &BufferedBody| match body.len() {
            len if len <= self.shared.config.max_initialize_bytes => {
                INITIALIZE.find(&body.data()).is_some()
            }
            // It is not recorded, which is to be told (rule B4).
            _ => is_large_initialize(&body.beginning()),
        };
        let body = self.body.as_ref();
        (*self.head.method() == Method::POST && body.is_none_or(may_be) && self.is_initialize())
            .then(|| Candidate::renewing(&self.session, self.epoch(), self.unpack(), body))
    }

    /// Whether somebody may wait for a response by id. Nearly all that is answered 202 is
    /// notifications, which is seen without parsing them.
    fn may_hold_requests(&self) -> bool {
        static ID: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"id\""));

        self.body.as_ref().is_none_or(|body| {
            let body = body.data();
            ID.find(&body).is_some() || memchr::memchr(b'\\', &body).is_some()
        })
    }

    /// What the answer to a DELETE says of the session (rule I1).
    pub(super) fn note_end(&self, status: StatusCode) {
        // A 404 to a stranger says nothing of the session (rule D8).
        let is_gone = status == StatusCode::NOT_FOUND && self.has_epochs_credentials();
        if status.is_success() || is_gone {
            // From here on it is not found any more.
            #[cfg(feature = "store")]
            recovery::reconcile::<S, B>(&self.shared);
            #[cfg(feature = "store")]
            recovery::end_everywhere(&self.shared, &self.session, self.unpack());
            self.shared.sessions.forget(&self.session);
            // A recovery may have made another while the DELETE was on its way.
            let current = self.session.chain().current();
            if !std::ptr::eq(&*current, &**self.epoch()) {
                recovery::end::<S, B>(&self.shared, &self.session, &current);
            }
        }
    }

    /// Says that the response will not come: the request was left behind in an epoch that has been
    /// replaced (rule G6).
    pub(super) fn orphaned(&self) -> LayerResponse<S, B> {
        let body = self.body.as_ref();
        let is_batch = body.is_some_and(|body| is_batch(&body.beginning()));
        let lost = LostResponse::SessionExpired.answer(&self.requests(), is_batch);
        self.mark(lost, Outcome::AnswerLost)
            .map(ResponseBody::whole)
    }
}
