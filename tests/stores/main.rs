//! The stores for sessions: the test suite for stores, crashes, full disks, and a real
//! `redis-server` (rules N2, N5, N7).
//!
//! What needs `redis-server`, or takes longer, is ignored: `cargo test -p stores -- --ignored`.

mod conformance;
mod redb;
mod redis;
mod secrets;
