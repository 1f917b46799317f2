//! The second and last sending of a request that found its epoch dead (rules F1 to F7, G2, G4).

use http::Response;
use http_body::Body;

use super::{Exchange, LastEventId, examine::Examined, in_flight::send};
use crate::{
    Outcome, Refusal,
    body::ResponseBody,
    http_service::{HttpService, LayerResponse, LayerResult},
    mcp::Message,
    session::Snapshot,
};

/// Sends the request again in the epoch that the session has moved to, if that is allowed.
/// Otherwise the caller gets its own `answer`.
pub(super) async fn replay<S, B>(
    mut exchange: Exchange<S, B>,
    answer: Examined<S::ResBody>,
    snapshot: Snapshot,
) -> LayerResult<S, B>
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + 'static,
{
    let sent_in = exchange.snapshot().clone();
    exchange.enter(snapshot);
    if let Some(accepted) = exchange.accepted() {
        return Ok(accepted);
    }
    let parts = exchange.head.unpack();
    let refusal = match exchange.last_event_id(&parts.headers) {
        LastEventId::Refused => Some(Refusal::LastEventId),
        LastEventId::Lost(_) => None,
        LastEventId::Keep | LastEventId::Drop => exchange.refusal(),
    };
    if let Some(refusal) = refusal {
        exchange.enter(sent_in);
        return Ok(exchange.give_back(answer, Outcome::NotReplayed(refusal)));
    }
    drop(answer);
    match exchange.address(parts, None) {
        Ok(request) => {
            // Whatever it brings goes to the caller (rule F1).
            exchange.outcome = Some(Outcome::Replayed);
            send(exchange, request).await
        }
        Err(response) => Ok(response.map(ResponseBody::whole)),
    }
}

impl<S, B> Exchange<S, B>
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + 'static,
{
    /// The answer to the caller's own `notifications/initialized`, which the handshake has sent
    /// (rule F3).
    pub(super) fn accepted(&self) -> Option<LayerResponse<S, B>> {
        if !self.summary().is_initialized {
            return None;
        }
        let mut accepted: Response<_> = self.epoch().handshake()?.accepted.clone();
        self.epoch()
            .translate_response(accepted.headers_mut(), self.session.id());
        Some(
            self.mark(accepted, Outcome::Initialized)
                .map(ResponseBody::whole),
        )
    }

    /// Why the request is not to be sent again, if so (rules F2, F4, F5).
    fn refusal(&self) -> Option<Refusal> {
        let Some(body) = &self.body else {
            return Some(Refusal::BodyNotBuffered);
        };
        if self.summary().has_response {
            return Some(Refusal::Response);
        }
        let replay_when = self.shared.config.replay_when.as_ref()?;
        let mut replayable = true;
        let read = Message::each(&body.data(), |message| {
            replayable = replayable && replay_when(&message);
        });
        (read.is_some() && !replayable).then_some(Refusal::ReplayWhen)
    }
}
