//! Passes on an answer that needs no recovery, and learns from it (rules C2, I1, B5, H1).

use http::{HeaderMap, Method, Response, StatusCode};
use http_body::Body;

use super::{Candidate, Exchange};
use crate::{
    Outcome,
    body::{ResponseBody, Tap},
    http_service::{HttpService, LayerResponse},
    mcp::{LostResponse, MessageReader, is_event_stream, session_id},
    recovery,
    session::PendingChanges,
};

/// Notes the changes of state that the server accepts, as the messages of an answer pass.
pub(super) type Accepting = (MessageReader, Box<dyn FnMut(&[u8]) -> bool + Send>);

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
            // A DELETE is never recovered (rules D7, I1).
            && *self.head.method() != Method::DELETE
            && self.shared.config.classify.examines(status)
    }

    /// Passes on the answer.
    pub(super) fn deliver(&self, mut response: Response<S::ResBody>) -> LayerResponse<S, B> {
        match self.outcome {
            Some(outcome) => response = self.mark(response, outcome),
            None => {}
        }
        if matches!(self.outcome, None | Some(Outcome::Replayed)) {
            self.session.chain().lives(self.epoch());
        }
        let status = response.status();
        let assigned = self.assigned(response.headers());
        self.epoch()
            .translate_response(response.headers_mut(), self.session.id());
        match *self.head.method() {
            Method::DELETE if status.is_success() || status == StatusCode::NOT_FOUND => {
                self.shared.sessions.forget(&self.session);
                self.end_successor();
            }
            Method::POST if status.is_success() => {
                if let Some(body) = &self.body {
                    if assigned && self.summary().is_initialize {
                        let candidate = Candidate::of(&self.shared, &self.head.unpack(), body);
                        if let Some(candidate) = candidate {
                            return candidate.settle(response);
                        }
                    }
                }
                let accepting = self.accepting(response.headers());
                if is_event_stream(response.headers()) {
                    let requests = self.summary().requests.clone();
                    return self.answer_stream(response, requests, false, accepting);
                }
                if let Some((reader, look)) = accepting {
                    return response
                        .map(|body| ResponseBody::wrapped(Tap::new(body, reader, look)));
                }
            }
            Method::GET if status.is_success() && is_event_stream(response.headers()) => {
                return self.get_stream(response);
            }
            _ => {}
        }
        response.map(ResponseBody::untouched)
    }

    /// What is to look at the answers, if the request asks for changes of state (rule H1).
    fn accepting(&self, headers: &HeaderMap) -> Option<Accepting> {
        let body = self.body.as_ref()?;
        if body.len() > PendingChanges::MAX_BODY {
            return None;
        }
        let mut pending = PendingChanges::in_body(&body.data());
        if pending.is_empty() {
            return None;
        }
        let config = &self.shared.config;
        let reader = MessageReader::new(headers, config.max_initialize_result_bytes)?;
        let (session, limit) = (self.session.clone(), config.max_subscriptions);
        let look =
            move |messages: &[u8]| pending.look(messages, |change| session.apply(change, limit));
        Some((reader, Box::new(look)))
    }

    /// Whether the answer assigns another id than the session's (rule B5).
    fn assigned(&self, headers: &HeaderMap) -> bool {
        session_id(headers)
            .is_some_and(|id| Some(id) != self.epoch().id() && id != self.session.id())
    }

    /// Ends the session that a recovery made while this DELETE was on its way to the one before:
    /// the caller wants none any more.
    fn end_successor(&self) {
        let current = self.session.chain().current();
        if current.number() != self.epoch().number() {
            recovery::end::<S, B>(&self.shared, &self.session, &self.head.unpack(), &current);
        }
    }

    /// Says that the response will not come: the request was left behind in an epoch that has been
    /// replaced (rule G6).
    pub(super) fn orphaned(&self) -> LayerResponse<S, B> {
        let lost = LostResponse::SessionExpired.not_found(&self.summary().requests);
        self.mark(lost, Outcome::AnswerLost)
            .map(ResponseBody::whole)
    }
}
