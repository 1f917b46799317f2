//! Making a new session, and what the layer itself says to a server. Knows no request of a caller
//! but for the head that triggered it.
//!
//! The files follow the order of events: `task` is a recovery from the claim to the new epoch,
//! `handshake` makes the session, `restore` tells it what the old one held, and `report` others what
//! came of it; `ping` asks whether one is there. `agree` is what a recovery has to do with other
//! processes, and `reconcile` what is to be done about them without a request. `client` sends what
//! they say, with the `headers` of whoever triggered it.

#[cfg(feature = "store")]
mod agree;
mod client;
mod drain;
mod handshake;
mod headers;
mod ping;
#[cfg(feature = "store")]
mod reconcile;
mod reply;
mod report;
mod restore;
mod task;

use std::{sync::Arc, time::Duration};

use http_body::Body;
use tokio::time::{Instant, sleep};

#[cfg(feature = "store")]
pub(crate) use self::{agree::end_everywhere, reconcile::reconcile};
use self::{
    client::{Client, UpstreamSession},
    drain::in_background,
};
pub(crate) use self::{
    headers::{authorization, callers_headers},
    ping::ping,
    restore::tell,
    task::start,
};
use crate::{
    config::Shared,
    deadline::deadline,
    http_service::HttpService,
    session::{Epoch, Session},
};

/// How often it is looked whether a session is still in use.
const LOOK: Duration = Duration::from_secs(1);

/// Forgets sessions if all of them together hold too much (rules I2, K10).
pub(crate) fn make_room<S, B>(shared: &Arc<Shared<S>>)
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + 'static,
{
    let evicted = shared.sessions.shrink(shared.config.table);
    evicted.iter().for_each(|it| let_go::<S, B>(shared, it));
}

/// The session was forgotten to make room. Unless it is in the store, where somebody may find it,
/// its upstream session is ended (rules I2, N1).
pub(crate) fn let_go<S, B>(shared: &Arc<Shared<S>>, session: &Arc<Session>)
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + 'static,
{
    let epoch = session.chain().current();
    if shared.keeps(session, &epoch) || !is_to_be_ended(shared, session, &epoch) {
        return;
    }
    let is_in_use = |session: &Arc<Session>| Arc::strong_count(session) > 1;
    if !is_in_use(session) {
        return end::<S, B>(shared, session, &epoch);
    }
    // What is still under way there has as much time as in an epoch that was replaced (rule G6).
    epoch.abandon();
    let (shared, session) = (shared.clone(), session.clone());
    in_background(Duration::MAX, async move {
        let until = deadline(Instant::now(), shared.config.orphan_timeout);
        while is_in_use(&session) && Instant::now() <= until {
            sleep(LOOK).await;
        }
        // It may be recorded again, or be in the store by now.
        if session.chain().is_forgotten() && !shared.keeps(&session, &epoch) {
            end::<S, B>(&shared, &session, &epoch);
        }
    });
}

/// Whether the epoch has an upstream session that its caller cannot name, and that is nobody else's.
fn is_to_be_ended<S>(shared: &Shared<S>, session: &Arc<Session>, epoch: &Epoch) -> bool {
    let is_callers = epoch.handshake().is_none() && epoch.id() == Some(session.id());
    epoch.id().is_some() && !is_callers && !shared.sessions.ends_anothers(session, epoch)
}

/// Ends the upstream session of an epoch that nobody can name any more: a recovery made it, or the
/// caller goes by an id of the layer's making (rules A5, I1, I2). A session that the caller can name
/// is the caller's to end, and one whose id has gone to another is his. Nobody waits.
pub(crate) fn end<S, B>(shared: &Arc<Shared<S>>, session: &Arc<Session>, epoch: &Arc<Epoch>)
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + 'static,
{
    if !is_to_be_ended(shared, session, epoch) {
        return;
    }
    let client = match epoch.handshake() {
        Some(handshake) => Client::<S, B>::of_handshake(shared, session, handshake),
        None => Client::of_initialize(shared, session),
    };
    client.delete(&UpstreamSession::of(epoch), None);
}
