//! Tells a new session what the old one held (rule H1).

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use http_body::Body;
use tokio::{
    task::{self, JoinSet},
    time::{Instant, timeout_at},
};

use tracing::Instrument;

use super::{
    client::{Client, UpstreamSession},
    drain::in_background,
    handshake::HalfOpen,
    reply::Reply,
};
#[cfg(feature = "store")]
use crate::session::Epoch;
use crate::{
    config::Shared,
    http_service::HttpService,
    mcp::Id,
    session::{Assigned, Session, State, StateChange},
};

/// How many of them are under way at once.
const CONCURRENCY: usize = 16;
/// How often a session is told of what was changed again while it was told.
const ROUNDS: usize = 8;
/// The largest answer that is read; there is hardly anything in it.
const MAX_ANSWER: usize = 64 * 1024;

/// Sends the state to a session that holds none. Gives the method of each request that had no
/// success, be it refused or not answered by the `deadline`.
pub(super) async fn restore<S, B>(
    client: &Arc<Client<S, B>>,
    made: &HalfOpen<'_, S, B>,
    state: State,
    deadline: Instant,
) -> Vec<&'static str>
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + 'static,
{
    let not_kept = vec!["resources/subscribe"; state.not_kept()];
    let changes = state.changes_from(&State::default());
    // Whoever has been given its id since is not to be told (rule A5).
    let is_anothers = || made.assigned().is_some_and(Assigned::is_taken);
    let told = change(client, made.upstream(), changes, deadline, is_anothers);
    [not_kept, told.await].concat()
}

/// Tells an epoch that another process has made what this one has changed in the epoch before. Gives the
/// same.
#[cfg(feature = "store")]
pub(super) async fn catch_up<S, B>(
    shared: &Arc<Shared<S>>,
    session: &Arc<Session>,
    epoch: &Arc<Epoch>,
    changes: Vec<StateChange>,
    deadline: Instant,
) -> Vec<&'static str>
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + 'static,
{
    let Some(handshake) = epoch.handshake().filter(|_| !changes.is_empty()) else {
        return Vec::new();
    };
    let client = Arc::new(Client::<S, B>::of_handshake(shared, session, handshake));
    let is_anothers = || shared.sessions.is_anothers(session, epoch);
    change(
        &client,
        &UpstreamSession::of(epoch),
        changes,
        deadline,
        is_anothers,
    )
    .await
}

/// Tells the session that is current what an earlier one has accepted since the new one was told
/// what it held. Nobody waits for that, so the caller may change it meanwhile: what it was answered
/// last is what holds.
pub(crate) fn tell<S, B>(
    shared: &Arc<Shared<S>>,
    session: &Arc<Session>,
    mut changes: Vec<StateChange>,
) where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + 'static,
{
    let epoch = session.chain().current();
    let Some(handshake) = epoch.handshake().filter(|_| !changes.is_empty()) else {
        return;
    };
    let client = Arc::new(Client::<S, B>::of_handshake(shared, session, handshake));
    let deadline = shared.config.deadline(Instant::now());
    // It makes no room before it has been told.
    #[cfg(feature = "store")]
    let doing = shared.persistence.as_ref().map(|it| it.doing_for(session));
    let (shared, session) = (shared.clone(), session.clone());
    in_background(shared.config.recovery_timeout, async move {
        #[cfg(feature = "store")]
        let _doing = doing;
        let upstream = UpstreamSession::of(&epoch);
        // Of a session that nobody records any more it is not known whose its id is by now.
        let is_over = || session.chain().is_forgotten();
        let is_anothers = || is_over() || shared.sessions.is_anothers(&session, &epoch);
        for _ in 0..ROUNDS {
            let told = changes.clone();
            change(&client, &upstream, changes, deadline, &is_anothers).await;
            changes = session.state().changed_since(&told);
            if changes.is_empty() {
                return;
            }
        }
    });
}

/// Sends changes of state to the session, as long as it is the caller's. Gives the method of each
/// that had no success.
async fn change<S, B>(
    client: &Arc<Client<S, B>>,
    upstream: &UpstreamSession,
    changes: Vec<StateChange>,
    deadline: Instant,
    is_anothers: impl Fn() -> bool,
) -> Vec<&'static str>
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + 'static,
{
    let mut not_restored = Vec::new();
    let mut under_way = UnderWay::default();
    for change in changes {
        let method = change.method();
        if under_way.tasks.len() >= CONCURRENCY {
            not_restored.extend(under_way.next().await.flatten());
        }
        if Instant::now() >= deadline || is_anothers() {
            not_restored.push(method);
            continue;
        }
        let (client, upstream) = (client.clone(), upstream.clone());
        let restoring = async move {
            let asked = ask(&client, &upstream, &change);
            timeout_at(deadline, asked).await.unwrap_or(false)
        };
        under_way.spawn(method, restoring.in_current_span());
    }
    while let Some(done) = under_way.next().await {
        not_restored.extend(done);
    }
    not_restored
}

/// Requests under way, each with its method.
#[derive(Default)]
struct UnderWay {
    tasks: JoinSet<bool>,
    methods: HashMap<task::Id, &'static str>,
}

impl UnderWay {
    fn spawn(&mut self, method: &'static str, task: impl Future<Output = bool> + Send + 'static) {
        self.methods.insert(self.tasks.spawn(task).id(), method);
    }

    /// Waits for the next one to end, and gives its method if it had no success; a panic of the
    /// inner service is none (rule M2).
    async fn next(&mut self) -> Option<Option<&'static str>> {
        let (id, restored) = match self.tasks.join_next_with_id().await? {
            Ok(done) => done,
            Err(error) => (error.id(), false),
        };
        let method = self.methods.remove(&id);
        Some(method.filter(|_| !restored))
    }
}

/// Whether the server did as it was told.
async fn ask<S, B>(client: &Client<S, B>, upstream: &UpstreamSession, change: &StateChange) -> bool
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + 'static,
{
    // No client uses such an id, and the layer each one once.
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let id = Id::from(format!("mcp-recovery/restore/{number}"));
    let (method, params) = (change.method(), change.params());
    let request = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{params}}}"#);
    let Ok(Some(response)) = client.post(upstream, Bytes::from(request)).await else {
        return false;
    };
    if !response.status().is_success() {
        return false;
    }
    let (head, body) = response.into_parts();
    let reply = client
        .reply(upstream, &head.headers, body, &id, MAX_ANSWER)
        .await;
    matches!(reply, Ok(Reply::Result(_)))
}
