//! The event streams that answer a request (rules G1, G3, G5, G6, G8).

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, header::CONTENT_LENGTH};
use http_body::Body;

use super::{Exchange, deliver::Accepting, reconnect::Reconnector};
use crate::{
    body::{AnswerStream, ListeningStream, ResponseBody, Tap},
    http_service::{HttpService, LayerResponse},
    mcp::{EventIds, Id, LAST_EVENT_ID},
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
        let last_event_id = self.head.header(&LAST_EVENT_ID);
        match last_event_id.map(|id| self.session.find_event(&id)) {
            Some(Logged::Answer { epoch, requests }) if epoch == self.epoch().number() => {
                self.answer_stream(response, requests, true, None)
            }
            // Whatever it resumes, the layer could not open it anew.
            Some(Logged::Unknown) => response.map(ResponseBody::untouched),
            _ => {
                let reconnect = Reconnector::new(self, self.epoch());
                let patience = self.shared.config.orphan_timeout;
                extended(response, |body| {
                    ListeningStream::new(body, reconnect, patience)
                })
            }
        }
    }

    /// Looks on as the answer to these requests passes.
    pub(super) fn answer_stream(
        &self,
        response: Response<S::ResBody>,
        requests: Arc<[Id]>,
        resumed: bool,
        accepting: Option<Accepting>,
    ) -> LayerResponse<S, B> {
        if requests.is_empty() {
            return response.map(ResponseBody::untouched);
        }
        let config = &self.shared.config;
        let orphan_timer = config
            .answer_lost_requests
            .then(|| OrphanTimer::new(self.epoch().clone(), config.orphan_timeout));
        let waiting = requests.to_vec();
        let shared = self.shared.clone();
        let (session, epoch) = (self.session.clone(), self.epoch().number());
        let limit = config.max_event_ids;
        let mut origin = StreamOrigin { epoch, requests };
        let remember = move |ids: &EventIds, waiting: &[Id]| {
            if waiting.len() != origin.requests.len() {
                origin.requests = waiting.into();
            }
            session.remember(ids, &origin, limit);
            recovery::make_room::<S, B>(&shared);
        };
        match accepting {
            None => extended(response, |body| {
                AnswerStream::new(body, waiting, resumed, remember, orphan_timer)
            }),
            Some((reader, look)) => extended(response, |body| {
                let body = Tap::new(body, reader, look);
                AnswerStream::new(body, waiting, resumed, remember, orphan_timer)
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
