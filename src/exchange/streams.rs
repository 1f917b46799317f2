//! The event streams that answer a request (rules G1, G3, G5, G6, G8).

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Response, header::CONTENT_LENGTH};
use http_body::Body;

use super::{Exchange, deliver::Accepting, reconnect::Reconnector};
use crate::{
    body::{AnswerStream, ListeningStream, ResponseBody, Tap},
    http_service::{HttpService, LayerResponse},
    mcp::{EventIds, Id, LAST_EVENT_ID, PendingRequests},
    recovery,
    session::{Logged, OrphanTimer, StreamOrigin},
};

impl<S, B> Exchange<S, B>
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + 'static,
{
    /// Looks on as the answer to a GET passes: a listening stream, or a stream resumed.
    pub(super) fn get_stream(&self, response: Response<S::ResBody>) -> LayerResponse<S, B> {
        let epoch = self.epoch().number();
        let last_event_id = self.head.header(&LAST_EVENT_ID);
        let last_event_id = last_event_id.filter(|id| !id.is_empty());
        let origin = match last_event_id.as_ref().map(|id| self.session.find_event(id)) {
            Some(Logged::Answer(answer)) if answer.origin.epoch() == epoch => {
                answer.resume();
                let id = last_event_id.as_ref().map(HeaderValue::as_bytes);
                let accepting = self.accepting_earlier(response.headers());
                return self.stream_of(response, answer.origin, answer.pending, id, accepting);
            }
            // Whatever it resumes, the layer could not open it anew.
            Some(Logged::Unknown) => return response.map(ResponseBody::untouched),
            Some(Logged::Listening(origin)) if origin.epoch() == epoch => origin,
            _ => StreamOrigin::listening(epoch),
        };
        let reconnect = Reconnector::new(self, self.epoch(), origin);
        let patience = self.shared.config.orphan_timeout;
        extended(response, |body| {
            ListeningStream::new(body, reconnect, patience)
        })
    }

    /// Looks on as the answer to these requests passes.
    pub(super) fn answer_stream(
        &self,
        response: Response<S::ResBody>,
        requests: Arc<[Id]>,
        accepting: Option<Accepting>,
    ) -> LayerResponse<S, B> {
        if requests.is_empty() {
            return response.map(ResponseBody::untouched);
        }
        let pending = Arc::new(PendingRequests::new(requests));
        let origin = StreamOrigin::answer(self.epoch().number(), pending.clone());
        self.stream_of(response, origin, pending, None, accepting)
    }

    fn stream_of(
        &self,
        response: Response<S::ResBody>,
        mut origin: StreamOrigin,
        pending: Arc<PendingRequests>,
        resumed_from: Option<&[u8]>,
        accepting: Option<Accepting>,
    ) -> LayerResponse<S, B> {
        let config = &self.shared.config;
        let orphan_timer = config
            .answer_lost_requests
            .then(|| OrphanTimer::new(self.epoch().clone(), config.orphan_timeout));
        let (shared, session) = (self.shared.clone(), self.session.clone());
        let limit = config.max_event_ids;
        let remember = move |ids: &EventIds| {
            session.remember(ids, &mut origin, limit);
            recovery::make_room::<S, B>(&shared);
        };
        match accepting {
            None => extended(response, |body| {
                AnswerStream::new(body, pending, resumed_from, remember, orphan_timer)
            }),
            Some((reader, look)) => extended(response, |body| {
                let body = Tap::new(body, reader, look);
                AnswerStream::new(body, pending, resumed_from, remember, orphan_timer)
            }),
        }
    }
}

/// A body that the layer may extend has no length (rule G8).
fn extended<R, T>(mut response: Response<R>, wrap: impl FnOnce(R) -> T) -> Response<ResponseBody<R>>
where
    R: Body,
    T: Body<Data = Bytes, Error = R::Error> + Send + 'static,
{
    response.headers_mut().remove(CONTENT_LENGTH);
    response.map(|body| ResponseBody::wrapped(wrap(body)))
}
