//! The event streams that answer a request (rules G1, G3, G5, G6, G8).

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Response, header::CONTENT_LENGTH};
use http_body::Body;

use super::{Exchange, deliver::Accepting, reconnect::Reconnector};
use crate::{
    Outcome, Refusal,
    body::{AnswerStream, Awaited, ListeningStream, ResponseBody, Tap},
    http_service::{HttpService, LayerResponse},
    mcp::{AnswerHeaders, EventIds, LAST_EVENT_ID, PendingRequests, Skimmed},
    recovery,
    session::{Logged, OrphanTimer, StreamOrigin},
};

impl<S, B> Exchange<S, B>
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + 'static,
{
    /// Looks on as the answer to a GET passes: a listening stream, or a stream resumed.
    pub(super) fn get_stream(
        &self,
        response: Response<S::ResBody>,
        said: AnswerHeaders,
    ) -> LayerResponse<S, B> {
        if self.is_given_away() {
            // It is of another's session by now: whoever asks again has his own (rule A5).
            let (mut head, _) = response.into_parts();
            head.headers.remove(CONTENT_LENGTH);
            return Response::from_parts(head, ResponseBody::whole(Bytes::new()));
        }
        if self.outcome == Some(Outcome::NotReplayed(Refusal::LastEventId)) {
            // It was sent where it was, and is of no session that there is.
            return response.map(ResponseBody::untouched);
        }
        let epoch = self.epoch().number();
        let last_event_id = self.head.header(&LAST_EVENT_ID);
        let last_event_id = last_event_id.filter(|id| !id.is_empty());
        let before = self.crosses.then_some(epoch);
        let find = |id| self.session.find_event(id, before);
        let origin = match last_event_id.as_ref().map(find) {
            Some(Logged::Answer(answer)) if answer.origin.epoch() == epoch => {
                answer.resume();
                let id = last_event_id.as_ref().map(HeaderValue::as_bytes);
                let accepting = self.accepting_earlier(response.headers());
                let awaited = Awaited::resumed(answer.pending, id);
                return self.stream_of(response, said, awaited, Some(answer.origin), accepting);
            }
            Some(Logged::Listening(origin)) if origin.epoch() == epoch => origin,
            // What it resumes from an id that is not known, as one that another process let through, too.
            _ => StreamOrigin::listening(epoch),
        };
        let reconnect = Reconnector::new(self, self.epoch(), origin);
        let patience = self.shared.config.orphan_timeout;
        extended(response, said, |body| {
            ListeningStream::new(body, reconnect, patience)
        })
    }

    /// Looks on as the answer to a request passes, or to several.
    pub(super) fn answer_stream(
        &self,
        response: Response<S::ResBody>,
        said: AnswerHeaders,
        message: Option<&Skimmed<'_>>,
        accepting: Option<Accepting>,
    ) -> LayerResponse<S, B> {
        let awaited = match message {
            Some(message) => message.request_id().map(Awaited::First),
            None => {
                let requests = self.requests();
                let pending = || Arc::new(PendingRequests::new(requests.clone()));
                (!requests.is_empty()).then(|| Awaited::responses(pending()))
            }
        };
        match awaited {
            Some(awaited) => self.stream_of(response, said, awaited, None, accepting),
            None => response.map(ResponseBody::untouched),
        }
    }

    /// `origin` is the stream's, if it is one that there was before.
    fn stream_of(
        &self,
        response: Response<S::ResBody>,
        said: AnswerHeaders,
        awaited: Awaited,
        mut origin: Option<StreamOrigin>,
        accepting: Option<Accepting>,
    ) -> LayerResponse<S, B> {
        let config = &self.shared.config;
        let epoch = self.epoch();
        let orphan_timer = config
            .answer_lost_requests
            .then(|| OrphanTimer::new(epoch.clone(), config.orphan_timeout).or_abandoned());
        let (shared, session, epoch) = (self.shared.clone(), self.session.clone(), epoch.number());
        let remember = move |ids: &EventIds, pending: &Arc<PendingRequests>| {
            let origin = origin.get_or_insert_with(|| StreamOrigin::answer(epoch, pending.clone()));
            session.remember(ids, origin, shared.config.max_event_ids);
            recovery::make_room::<S, B>(&shared);
        };
        match accepting {
            None => extended(response, said, |body| {
                AnswerStream::new(body, awaited, remember, orphan_timer)
            }),
            Some((reader, look)) => extended(response, said, |body| {
                let body = Tap::new(body, reader, look);
                AnswerStream::new(body, awaited, remember, orphan_timer)
            }),
        }
    }
}

/// A body that the layer may extend has no length (rule G8).
// Inlined, since what it makes is large.
#[inline(always)]
fn extended<R, T>(
    mut response: Response<R>,
    said: AnswerHeaders,
    wrap: impl FnOnce(R) -> T,
) -> Response<ResponseBody<R>>
where
    R: Body,
    T: Body<Data = Bytes, Error = R::Error> + Send + 'static,
{
    if said.has_length {
        response.headers_mut().remove(CONTENT_LENGTH);
    }
    response.map(|body| ResponseBody::wrapped(wrap(body)))
}
