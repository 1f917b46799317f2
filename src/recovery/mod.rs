//! Making a new session, and what the layer itself says to a server. Knows no request of a caller
//! but for the head that triggered it.
//!
//! The files follow the order of events: `task` is a recovery from the claim to the new epoch,
//! `handshake` makes the session, `restore` tells it what the old one held; `client` sends what
//! they say.

mod client;
mod handshake;
mod restore;
mod task;

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, request::Parts};
use http_body::Body;

use self::client::{Client, UpstreamSession};
pub(crate) use self::{client::overlay, task::start};
use crate::{
    config::Shared,
    http_service::HttpService,
    mcp::Id,
    session::{Epoch, Session},
};

/// Ends a session that the caller does not want any more. Nobody waits for that.
pub(crate) fn end<S, B>(shared: &Arc<Shared<S>>, session: &Session, trigger: &Parts, epoch: &Epoch)
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + 'static,
{
    let recorded = &session.initialize().headers;
    Client::<S, B>::new(shared.clone(), recorded, trigger)
        .delete(&UpstreamSession::of(epoch), shared.config.recovery_timeout);
}

/// Asks the server of an epoch whether it is there (rule D4). Gives the answer, unless that says
/// that it is, and what was asked.
pub(crate) async fn ping<S, B>(
    shared: &Arc<Shared<S>>,
    session: &Session,
    epoch: &Epoch,
    trigger: &Parts,
) -> Option<(Response<S::ResBody>, Bytes)>
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + 'static,
{
    let recorded = &session.initialize().headers;
    let client = Client::<S, B>::new(shared.clone(), recorded, trigger);
    let id = Id::from("mcp-session-recovery/ping".to_owned());
    let message = Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#));
    let upstream = UpstreamSession::of(epoch);
    let response = client.post(&upstream, message.clone()).await.ok()?;
    (!response.status().is_success()).then_some((response, message))
}
