//! Asks a server whether it knows a session (rules D4, D8, D9, N3).

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, request::Parts};
use http_body::Body;

use super::client::{Client, UpstreamSession};
use crate::{
    Failure,
    config::Shared,
    http_service::HttpService,
    mcp::Id,
    session::{Epoch, Session},
};

/// Sends a `ping` in an epoch, with the credentials in the head of the `trigger`. Gives the answer,
/// and what was asked; `None` if the epoch's id is another's by then.
pub(crate) async fn ping<S, B>(
    shared: &Arc<Shared<S>>,
    session: &Arc<Session>,
    epoch: &Arc<Epoch>,
    trigger: &Parts,
) -> Result<Option<(Response<S::ResBody>, Bytes)>, Failure>
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + 'static,
{
    let client = Client::<S, B>::of_trigger(shared, session, trigger).in_epoch(epoch);
    client.ping(epoch).await
}

impl<S, B> Client<S, B>
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + 'static,
{
    /// Sends a `ping` in an epoch. Gives the same.
    pub(super) async fn ping(
        &self,
        epoch: &Arc<Epoch>,
    ) -> Result<Option<(Response<S::ResBody>, Bytes)>, Failure> {
        // Servers repeat it in bodies that are searched for what they say of the session (rule D9).
        let id = Id::from("mcp-recovery/ping".to_owned());
        let message = Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#));
        let upstream = UpstreamSession::of(epoch);
        let response = self.post(&upstream, message.clone()).await?;
        Ok(response.map(|response| (response, message)))
    }
}
