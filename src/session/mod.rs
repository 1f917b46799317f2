//! Who is alive: the recorded sessions, their epochs, and what they hold.
//!
//! A [`Session`] is what a caller's `initialize` made. It outlives the sessions that the server
//! forgets: each of those is an [`Epoch`] of it, and the caller's id names it through all of them.

mod accepted;
mod affinity;
mod assigned;
mod by_id;
mod chain;
mod earlier;
mod endpoint;
mod epoch;
mod event_log;
mod eviction;
#[cfg(test)]
mod fixture;
mod orphan_timer;
mod pace;
mod pending_changes;
#[cfg(feature = "store")]
mod persistence;
mod principal;
mod random_id;
mod recovery_error;
#[cfg(all(test, shuttle))]
pub(crate) mod schedules;
#[allow(clippy::module_inception)]
mod session;
mod sessions;
mod state;
#[cfg(feature = "store")]
mod stored;
#[cfg(feature = "store")]
mod synced;
mod table;
#[cfg(feature = "store")]
mod unstored;
mod whose;

#[cfg(feature = "store")]
pub(crate) use self::persistence::{
    Agreed, EndedBy, Found, Newer, Persistence, PersistenceConfig, Reconcile,
};
use self::random_id::random_id;
pub(crate) use self::{
    accepted::{Listening, LostRequests},
    affinity::Affinity,
    chain::{Chain, Claim, Leader, Snapshot, Standing},
    endpoint::Endpoint,
    epoch::{Epoch, Handshake, Reassigned},
    event_log::{EventLog, Logged, LoggedAnswer, StreamOrigin},
    orphan_timer::{OrphanTimer, Replaced},
    pace::Pauses,
    pending_changes::PendingChanges,
    recovery_error::RecoveryError,
    session::{Initialize, Key, Session, uri_bytes},
    sessions::Evicted,
    state::{State, StateChange},
    table::TableLimits,
    whose::Assigned,
};
pub use self::{principal::Principal, sessions::Sessions};
