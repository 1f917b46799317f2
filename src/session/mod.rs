//! Who is alive: the recorded sessions, their epochs, and what they hold.
//!
//! A [`Session`] is what a caller's `initialize` made. It outlives the sessions that the server
//! forgets: each of those is an [`Epoch`] of it, and the caller's id names it through all of them.

mod budget;
mod chain;
mod endpoint;
mod epoch;
mod event_log;
mod failure;
mod orphan;
#[allow(clippy::module_inception)]
mod session;
mod state;
mod table;

pub(crate) use self::{
    budget::BudgetLimits,
    chain::{Chain, Claim, Flight, Landing, Leader, Snapshot},
    endpoint::Endpoint,
    epoch::{Epoch, Handshake},
    event_log::{EventLog, Logged, StreamOrigin},
    failure::Failed,
    orphan::{InFlight, OrphanTimer, Orphaned, Replaced},
    session::{Initialize, Session},
    state::{State, StateChange},
};
pub use self::{failure::Failure, table::Sessions};
