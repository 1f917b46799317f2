//! The life of one request of a recorded session.
//!
//! The files follow it: [`Exchange`] is what is kept of the request and how it is `prepare`d for
//! an epoch, `in_flight` polls it while it is under way, hot or cold, `deliver` passes an answer
//! on, `streams` looks on where that is an event stream. Everything else is the cold path: `wait`
//! for a recovery under way, `examine` an answer that may mean that the session has expired, and
//! `replay` the request once in the new one. [`Candidate`] is the request that makes a session.

mod allowance;
mod candidate;
mod deliver;
mod examine;
#[allow(clippy::module_inception)]
mod exchange;
mod in_flight;
mod last_event_id;
mod packed;
mod reconnect;
mod recover;
mod replay;
mod streams;
mod wait;

#[cfg(feature = "store")]
pub(crate) use self::exchange::unknown_session;
use self::last_event_id::LastEventId;
pub(crate) use self::{
    candidate::Candidate,
    exchange::{Exchange, InSession, Prepared},
    in_flight::InFlight,
    wait::send_first,
};
