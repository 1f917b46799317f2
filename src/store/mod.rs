//! Sessions that outlive the process (feature `store`).
//!
//! A layer keeps its sessions in memory. With a [`SessionStore`] they outlive the process, and any
//! process with the same store goes on with them: after a restart, behind a load balancer, in the
//! second replica of a gateway.
//!
//! | store | feature | for | needs |
//! |---|---|---|---|
//! | [`MemoryStore`] | `store` | tests; several layers of one process | |
//! | `RedbStore` | `redb` | one process at a time, a file | Rust 1.90 |
//! | `RedisStore` | `redis`, `redis-tls` | any number of processes | Redis 6 or Valkey, alone or as a cluster |
//! | `Sealed` | `seal` | encrypts what goes to another store | |
//! | your own | `store`, `store-conformance` | a database that you have already | |
//!
//! ```
//! use mcp_session_recovery::{SessionRecoveryLayer, store::MemoryStore};
//!
//! let layer = SessionRecoveryLayer::new().store(MemoryStore::new());
//! # let _ = layer;
//! ```
//!
//! # What processes with the same store agree on
//!
//! A request with an id that the process does not know asks the store. A recovery asks it before
//! its handshake, and goes on in the session that another process has made meanwhile, if the server
//! still knows it. The handshake's session counts once it has replaced its predecessor in the
//! store; if another process was first, it is ended with a DELETE, and that one's is used. Everything
//! else, from a new session to a subscription, is written in the background, at once if the store
//! lets it. A process that is killed in between loses that much; one that ends waits for
//! [`Sessions::flush`](crate::Sessions::flush).
//!
//! A session that one process ends is recovered by none: in place of its record it leaves a mark
//! for a minute, or for twice [`recovery_timeout`](crate::SessionRecoveryLayer::recovery_timeout) if
//! that is longer. A process that knew the session, and is asked for it for the first time after
//! that, takes it for one that the store has lost, and recovers it.
//!
//! Whose credentials a session was recorded with is not stored, so a new process knows them once a
//! request with them has been answered. Until then it takes a 404 as said, whoever asked.
//!
//! A server that counts its session ids and starts from 1 again can give a new caller the id that
//! an earlier one goes by. A process that knows the earlier session tells them apart; one that does
//! not lets the new one take its place in the store. The earlier one then lives on in the processes
//! that knew it, each for itself.
//!
//! # What is stored
//!
//! A record for each session, under a SHA-256 of its endpoint, principal and caller's id. In it, as
//! JSON with a version:
//!
//! - the endpoint: scheme, host and port, path (no user information, no query);
//! - digests of the principal and of the caller's id, and a random number that tells the session from
//!   others that the server gives the same id;
//! - the number of the current epoch, and the server's id of it if that is not the caller's, and whether
//!   the server is known to have given that to another since;
//! - the negotiated versions, digests of the server's info, capabilities and instructions, the
//!   lists whose changes it promised to announce;
//! - the `initialize` request with its `accept` and `content-type`;
//! - the log level and the resource subscriptions.
//!
//! **No credentials**: the handshake that makes the next epoch has those of the request that found
//! the last one expired. No messages, no answers, no event ids.
//!
//! An ordinary session takes some 800 bytes, its `initialize` included.
//!
//! A record is removed with its session (DELETE), and expires when the session was not used for
//! [`session_ttl`](crate::SessionRecoveryLayer::session_ttl), 24 hours if not told otherwise. An open
//! stream alone is no use; records of sessions in use are written again four times in that time.
//!
//! # What a stolen store is worth
//!
//! The server's session ids are in it. Where a server asks for nothing but the id, who has the
//! record is in the session; where it asks for credentials, too, the record alone opens nothing.
//! `Sealed` encrypts the records with a key of yours, and then a stolen store tells how many
//! sessions there are and when they were used. Whoever can *write* to a store can send the calls of
//! a caller into another session of the same server; sealed, records cannot be made up, nor moved
//! from one session to another.
//!
//! # When the store fails
//!
//! No request fails for it. One whose session is unknown waits for it no longer than
//! [`store_timeout`](crate::SessionRecoveryLayer::store_timeout) (250 ms), and so does a recovery;
//! if a request needs both, it may wait for both. A session that could not be read is an unknown
//! one, and its requests pass through untouched. What could not be written is written when the store
//! is back: until then processes recover each for itself. Then the epoch in the store counts, unless
//! it has expired: whoever is in another one asks the server with a `ping`, goes on in that without
//! waiting for a request, and ends its own after
//! [`orphan_timeout`](crate::SessionRecoveryLayer::orphan_timeout). A `warn` tells when it fails, an
//! `info` when it is used once more and nothing has failed for ten seconds; nothing secret is told.
//!
//! A session that is too large for a record, of 2 MiB, is not stored. Within the default limits there is
//! none; a `warn` tells of one, and [`Sessions::flush`](crate::Sessions::flush) fails as long as it is there.
//!
//! # Writing a store
//!
//! Three operations make a store: see [`SessionStore`] for what they have to hold. This one is
//! complete. A table of a database with the columns of its `Row` becomes one in the same way, with
//! `UPDATE … WHERE key = ? AND revision = ?` and a look at how many rows that has changed.
//!
//! ```
//! use std::{
//!     collections::HashMap,
//!     sync::Mutex,
//!     time::{Duration, Instant},
//! };
//!
//! use bytes::Bytes;
//! use mcp_session_recovery::store::{
//!     Revision, Saved, SessionStore, StoreFuture, StoreKey, Stored,
//! };
//!
//! #[derive(Default)]
//! struct MyStore(Mutex<Table>);
//!
//! #[derive(Default)]
//! struct Table {
//!     rows: HashMap<StoreKey, Row>,
//!     last_revision: u64,
//! }
//!
//! struct Row {
//!     value: Bytes,
//!     revision: Revision,
//!     /// `None` if that is later than the clock goes.
//!     expires: Option<Instant>,
//! }
//!
//! impl Table {
//!     fn current(&self, key: StoreKey) -> Option<&Row> {
//!         let row = self.rows.get(&key)?;
//!         row.expires.is_none_or(|at| at > Instant::now()).then_some(row)
//!     }
//! }
//!
//! impl SessionStore for MyStore {
//!     fn load(&self, key: StoreKey) -> StoreFuture<'_, Option<Stored>> {
//!         Box::pin(async move {
//!             let table = self.0.lock().unwrap();
//!             Ok(table.current(key).map(|row| Stored {
//!                 value: row.value.clone(),
//!                 revision: row.revision,
//!             }))
//!         })
//!     }
//!
//!     fn save(
//!         &self,
//!         key: StoreKey,
//!         value: Bytes,
//!         expected: Option<Revision>,
//!         ttl: Duration,
//!     ) -> StoreFuture<'_, Saved> {
//!         Box::pin(async move {
//!             let mut table = self.0.lock().unwrap();
//!             if table.current(key).map(|row| row.revision) != expected {
//!                 return Ok(Saved::Conflict);
//!             }
//!             table.last_revision += 1;
//!             let revision = Revision::new(table.last_revision);
//!             let expires = Instant::now().checked_add(ttl);
//!             table.rows.insert(key, Row { value, revision, expires });
//!             Ok(Saved::Yes(revision))
//!         })
//!     }
//!
//!     fn remove(&self, key: StoreKey) -> StoreFuture<'_, ()> {
//!         Box::pin(async move {
//!             self.0.lock().unwrap().rows.remove(&key);
//!             Ok(())
//!         })
//!     }
//! }
//!
//! # #[cfg(feature = "store-conformance")]
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! // In your tests, with the feature `store-conformance`:
//! mcp_session_recovery::store::conformance::check(MyStore::default()).await;
//! # });
//! ```

pub(crate) mod ended;
mod error;
pub(crate) mod key;
mod memory;
pub(crate) mod record;
#[cfg(feature = "redb")]
mod redb;
#[cfg(feature = "redis")]
mod redis;
#[cfg(feature = "seal")]
mod sealed;
mod session_store;

#[cfg(feature = "store-conformance")]
pub mod conformance;

use std::time::Duration;

#[cfg(feature = "redb")]
pub use self::redb::RedbStore;
#[cfg(feature = "redis")]
pub use self::redis::RedisStore;
#[cfg(feature = "seal")]
pub use self::sealed::{SealKey, Sealed};
pub use self::{
    error::{StoreError, StoreErrorKind},
    key::StoreKey,
    memory::MemoryStore,
    session_store::{Revision, Saved, SessionStore, StoreFuture, Stored},
};

/// A hundred years, which every clock can add.
const LONGEST_TTL: Duration = Duration::from_secs(100 * 365 * 86_400);
