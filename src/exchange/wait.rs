//! A request that arrives during a recovery (rules E3, F2, J3).

use http_body::Body;

use super::{Exchange, in_flight::send};
use crate::{
    Outcome, Recovery,
    body::{RequestBody, ResponseBody},
    http_service::{HttpService, LayerResult},
    mcp::names_method,
    session::Flight,
};

/// Waits for a recovery, then sends the request for the first time.
pub(crate) async fn wait<S, B>(
    mut exchange: Exchange<S, B>,
    unbuffered: Option<RequestBody<B>>,
    flight: Flight,
) -> LayerResult<S, B>
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + 'static,
{
    let ended = match exchange.belongs_to_the_old_session(unbuffered.as_ref()) {
        true => None,
        false => Some(flight.ended().await),
    };
    let mut waited = None;
    match &ended {
        Some(Ok(_)) => {
            exchange.enter(exchange.session.chain().snapshot().0);
            waited = Some(Recovery::new(Outcome::Waited, exchange.epoch().number()));
        }
        // The server's answer is the caller's (rule J3).
        Some(Err(error)) => exchange.outcome = Some(Outcome::Failed(error.failure)),
        None => {}
    }
    if exchange.crosses() {
        if let Some(accepted) = exchange.accepted() {
            return Ok(accepted);
        }
    }
    let parts = exchange.head.unpack();
    let mut response = match exchange.address(parts, unbuffered) {
        Ok(request) => send(exchange, request).await?,
        Err(response) => response.map(ResponseBody::whole),
    };
    if let Some(waited) = waited {
        // If the new session was dead as well, the response tells of that.
        response.extensions_mut().get_or_insert(waited);
    }
    Ok(response)
}

impl<S, B> Exchange<S, B>
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + 'static,
{
    /// Whether a request has nothing to wait for: a response answers a question of the old session,
    /// and an `initialize` makes a session of its own (rules F2, D7). A body that was not buffered
    /// is taken for a response if no method is in sight.
    fn belongs_to_the_old_session(&self, unbuffered: Option<&RequestBody<B>>) -> bool {
        match unbuffered {
            Some(unbuffered) => !unbuffered.has_read(names_method),
            None => self.summary().is_initialize || self.summary().has_response,
        }
    }
}
