//! The cold path: what happens from the moment that an answer may mean a dead session.
//!
//! [`Exchange`] is one request of a recorded session and what becomes of its answer. The files
//! follow the order of events: `examine` reads a verdict out of an answer, `run` is the recovery
//! itself (`handshake`, then `restore`), `replay` sends the request again.

mod client;
mod config;
mod examine;
mod exchange;
mod handshake;
mod inner;
mod outcome;
mod packed;
mod reconnect;
mod record;
mod replay;
mod restore;
mod route;
mod run;

use self::inner::{Answered, Delivered};
pub use self::outcome::{Outcome, Recovery, RecoveryEvent, Refusal};
pub(crate) use self::{
    config::{Config, Shared},
    examine::{Examined, examine},
    exchange::{Exchange, Plan},
    inner::{Inner, SharedService},
    record::Candidate,
    replay::{send_first, wait},
    route::Route,
};
