//! Who is alive: the recorded sessions, their epochs, and what they hold.
//!
//! A [`Session`] is what a caller's `initialize` made. It outlives the sessions that the server
//! forgets: each of those is an [`Epoch`] of it, and the caller's id names it through all of them.

mod budget;
mod chain;
mod endpoint;
mod epoch;
mod event_log;

mod orphan_timer;
mod recovery_error;
#[allow(clippy::module_inception)]
mod session;
mod state;
mod table;

pub use self::table::Sessions;
pub(crate) use self::{
    budget::BudgetLimits,
    chain::{Chain, Claim, Flight, FlightResult, Leader, Snapshot},
    endpoint::Endpoint,
    epoch::{Epoch, Handshake},
    event_log::{EventLog, Logged, StreamOrigin},
    orphan_timer::{OrphanTimer, Replaced},
    recovery_error::RecoveryError,
    session::{Initialize, Session},
    state::{PendingChanges, State, StateChange},
};
