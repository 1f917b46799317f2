//! `initialize`, its answer, `notifications/initialized` (rules E5 to E8, J1).

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use http_body::Body;
use tokio::time::{Instant, timeout};

use super::{
    client::{Client, UpstreamSession},
    drain::drain_in_background,
    reply::Reply,
};
use crate::{
    Failure,
    body::ReadAhead,
    config::{Config, Shared},
    http_service::HttpService,
    mcp::{self, InitializeResult, SESSION_ID},
    session::{Assigned, Epoch, RecoveryError, Session},
};

const INITIALIZED: &[u8] = br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;

/// A new session on the server.
pub(super) struct Established<'a, S: HttpService<B>, B: Body<Error: Send> + Send + 'static> {
    pub(super) session: HalfOpen<'a, S, B>,
    pub(super) result: InitializeResult,
    /// The answer to `notifications/initialized`.
    pub(super) accepted: Response<Bytes>,
}

/// A session that is not in use yet. Dropping it ends it on the server, so that none is leaked
/// whatever goes wrong (rules E7, I3).
pub(super) struct HalfOpen<'a, S: HttpService<B>, B: Body<Error: Send> + Send + 'static> {
    client: &'a Client<S, B>,
    session: &'a Arc<Session>,
    upstream: UpstreamSession,
    assigned: Option<Assigned>,
}

impl<S: HttpService<B>, B: Body<Error: Send> + Send + 'static> HalfOpen<'_, S, B> {
    pub(super) fn upstream(&self) -> &UpstreamSession {
        &self.upstream
    }

    pub(super) fn assigned(&self) -> Option<&Assigned> {
        self.assigned.as_ref()
    }

    /// The session will be used: dropping this leaves it alone from now on.
    pub(super) fn keep(mut self) {
        self.upstream.id = None;
    }
}

impl<S: HttpService<B>, B: Body<Error: Send> + Send + 'static> Drop for HalfOpen<'_, S, B> {
    fn drop(&mut self) {
        let Some(assigned) = self.assigned.take() else {
            return;
        };
        if let Some(given_up) = assigned.must_end(self.session) {
            self.client.delete(&self.upstream, Some(given_up));
        }
    }
}

/// Makes a new session, as the caller's `initialize` made the one of `epoch`.
pub(super) async fn shake_hands<'a, S, B>(
    client: &'a Client<S, B>,
    session: &'a Arc<Session>,
    epoch: &Epoch,
    shared: &Shared<S>,
    deadline: Instant,
) -> Result<Established<'a, S, B>, RecoveryError>
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + 'static,
{
    let config = &shared.config;
    let initialize = &session.initialize().body;
    let proposed = mcp::propose_version(initialize, epoch.version());
    let (body, id) = proposed.ok_or(Failure::Malformed)?;
    // It goes out under no id.
    let response = client.post(&UpstreamSession::default(), body).await?;
    let response = response.ok_or(Failure::Transport)?;
    if !response.status().is_success() {
        let response = whole(response, config, patience(deadline)).await;
        return Err(client.refused(response, Failure::Refused));
    }

    let (head, body) = response.into_parts();
    let id_given = session_id(&head.headers);
    let assigned = id_given.as_ref();
    let assigned = assigned.map(|id| shared.sessions.assign(session, id));
    let mut made = HalfOpen {
        client,
        session,
        upstream: UpstreamSession::of_handshake(id_given, assigned.as_ref()),
        assigned,
    };
    let limit = config.max_initialize_result_bytes;
    let reply = client
        .reply(made.upstream(), &head.headers, body, &id, limit)
        .await?;
    let result = match reply {
        Reply::Result(result) => {
            InitializeResult::parse_again(&result, epoch.result()).ok_or(Failure::Malformed)?
        }
        Reply::Error(code) => return Err(Failure::Rpc(code).into()),
    };
    made.upstream.version = result.version().or(epoch.version()).cloned();

    let response = client
        .post(made.upstream(), Bytes::from_static(INITIALIZED))
        .await?;
    let Some(response) = response else {
        // The session is lost, which shows when it is published.
        let mut accepted = Response::new(Bytes::new());
        *accepted.status_mut() = StatusCode::ACCEPTED;
        return Ok(Established {
            session: made,
            result,
            accepted,
        });
    };
    // A success says all that matters with its status: there is no waiting for its body.
    let patience = match response.status().is_success() {
        true => Duration::ZERO,
        false => patience(deadline),
    };
    let accepted = whole(response, config, patience).await;
    if !accepted.status().is_success() {
        return Err(client.refused(accepted, Failure::NotAccepted));
    }
    Ok(Established {
        session: made,
        result,
        accepted,
    })
}

fn session_id(headers: &HeaderMap) -> Option<http::HeaderValue> {
    let mut id = headers.get(SESSION_ID)?.clone();
    id.set_sensitive(true);
    Some(id)
}

/// How long a refusal's body is waited for: what has come of it by then is passed on, and that has
/// to be in time (rule J1).
pub(super) fn patience(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()) / 2
}

impl<S, B> Client<S, B>
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + 'static,
{
    /// What an answer other than 2xx comes to: something that the caller can act on (rule J1), or
    /// `otherwise`.
    fn refused(
        &self,
        mut response: Response<Bytes>,
        otherwise: fn(StatusCode) -> Failure,
    ) -> RecoveryError {
        let status = response.status();
        if !matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return otherwise(status).into();
        }
        // Some clients adopt whatever id they see.
        response.headers_mut().remove(SESSION_ID);
        RecoveryError {
            failure: Failure::Denied(status),
            challenge: Some(Box::new(response)),
            authorization: self.authorization().cloned(),
        }
    }
}

/// The response with its body as far as the limit and the time let it be read. `Content-Length` is
/// what is left of it.
pub(super) async fn whole<R>(
    response: Response<R>,
    config: &Config,
    patience: Duration,
) -> Response<Bytes>
where
    R: Body<Data: Send, Error: Send> + Send + 'static,
{
    let limit = config.max_error_body_bytes;
    let (mut head, body) = response.into_parts();
    let mut read = ReadAhead::new(body);
    // What has come when the time is up is passed on.
    let _ = timeout(patience, read.fill(limit)).await;
    let body = read.bytes(limit);
    if let Some(rest) = read.into_rest() {
        drain_in_background(rest);
    }
    if let Some(length) = head.headers.get_mut(http::header::CONTENT_LENGTH) {
        *length = body.len().into();
    }
    // The answer is given to several callers; only what can be said to each is kept.
    head.extensions = http::Extensions::new();
    Response::from_parts(head, body)
}
