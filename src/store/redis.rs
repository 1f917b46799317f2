//! A store in Redis or Valkey.

use std::{
    fmt,
    sync::{PoisonError, RwLock},
    time::Duration,
};

use bytes::Bytes;
use redis::{
    Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, FromRedisValue, IntoConnectionInfo,
    RedisError, ServerErrorKind,
    aio::{ConnectionManager, ConnectionManagerConfig},
    cluster::ClusterClient,
    cluster_async::ClusterConnection,
};
use tokio::sync::OnceCell;

use super::{
    LONGEST_TTL, Revision, Saved, SessionStore, StoreError, StoreErrorKind, StoreFuture, StoreKey,
    Stored,
};

/// A store in Redis 6 or later, or in Valkey. Needs the feature `redis`.
///
/// Every operation is one command on one key, so a cluster will do. Compared and saved is in a
/// script (`EVAL`); beyond that, the user of the store needs `GET`, `SET` and `DEL` for the keys
/// that begin with the [prefix](Self::prefix).
///
/// # Durability
///
/// What was acknowledged survives what the server's configuration lets it survive: with
/// `appendfsync everysec`, and in a failover to a replica, the last second may be lost. A server
/// that evicts keys forgets sessions, and one that is full (`noeviction`) takes none.
///
/// # Who can read it
///
/// Whoever can read the keys can enter the sessions in them, unless the store is `Sealed` (feature
/// `seal`). A password and TLS protect the way to the server, not what it holds.
pub struct RedisStore {
    connection: Connection,
    prefix: String,
}

enum Connection {
    One {
        client: Client,
        manager: RwLock<ConnectionManager>,
    },
    Cluster {
        client: ClusterClient,
        connection: OnceCell<ClusterConnection>,
    },
}

/// A value is stored behind eight bytes, its revision. What is there and no value of ours counts as
/// absent, so that it does not stand in the way for ever.
const SAVE: &str = r"
local current = redis.pcall('GET', KEYS[1])
local revision = ''
if type(current) == 'string' and #current >= 8 then revision = string.sub(current, 1, 8) end
if revision ~= ARGV[1] then return 0 end
local saved = redis.pcall('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
if saved.err then return saved end
return 1
";
const REVISION: usize = size_of::<u64>();
/// Whoever asks waits less; this is for what nobody waits for.
const TIMEOUT: Duration = Duration::from_secs(2);

impl RedisStore {
    /// A store in the server at `url`: `redis://[user:password@]host[:port][/database]`, or with
    /// `rediss://` over TLS.
    ///
    /// TLS needs the feature `redis-tls`, and that rustls has been given a
    /// [default provider](https://docs.rs/rustls/0.23/rustls/crypto/struct.CryptoProvider.html)
    /// before. The certificates that are trusted are those of the system.
    ///
    /// Connects when it is first used, and again whenever the connection is lost. Has to be called
    /// within a tokio runtime.
    ///
    /// # Errors
    ///
    /// When the URL is none of a server, or asks for what was not compiled in.
    pub fn connect(url: &str) -> Result<Self, StoreError> {
        let client = Client::open(url).map_err(|_| NO_URL)?;
        check_tls([client.get_connection_info()])?;
        let manager = RwLock::new(manage(&client)?);
        Ok(Self::new(Connection::One { client, manager }))
    }

    /// A store in the cluster that these servers, or some of them, are of; the URLs are as in
    /// [`connect`](Self::connect).
    ///
    /// # Errors
    ///
    /// As in [`connect`](Self::connect).
    pub fn connect_cluster<'a>(
        urls: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, StoreError> {
        let urls = urls
            .into_iter()
            .map(IntoConnectionInfo::into_connection_info);
        let servers: Vec<_> = urls.collect::<Result<_, _>>().map_err(|_| NO_URL)?;
        check_tls(&servers)?;
        let client = ClusterClient::builder(servers)
            .connection_timeout(TIMEOUT)
            .response_timeout(TIMEOUT)
            .build()
            .map_err(|_| NO_URL)?;
        let connection = OnceCell::new();
        Ok(Self::new(Connection::Cluster { client, connection }))
    }

    fn new(connection: Connection) -> Self {
        let prefix = "mcp-session:".to_owned();
        Self { connection, prefix }
    }

    /// What the keys begin with. Default: `mcp-session:`, followed by 64 hexadecimal digits.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Asks the server whether it is there.
    ///
    /// # Errors
    ///
    /// When it is not.
    pub async fn ping(&self) -> Result<(), StoreError> {
        let _: String = self.query(&redis::cmd("PING")).await?;
        Ok(())
    }

    fn key(&self, key: StoreKey) -> String {
        format!("{}{key}", self.prefix)
    }

    async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, StoreError> {
        let answered = match &self.connection {
            Connection::One { client, manager } => {
                let mut connection = read(manager);
                let answered = command.query_async(&mut connection).await;
                let read_only = ErrorKind::Server(ServerErrorKind::ReadOnly);
                if answered
                    .as_ref()
                    .is_err_and(|error: &RedisError| error.kind() == read_only)
                {
                    // It was the primary once. Whoever is now is found by connecting anew.
                    let anew = manage(client)?;
                    *manager.write().unwrap_or_else(PoisonError::into_inner) = anew;
                }
                answered
            }
            Connection::Cluster { client, connection } => {
                let connecting = connection.get_or_try_init(|| client.get_async_connection());
                match connecting.await {
                    Ok(connection) => command.query_async(&mut connection.clone()).await,
                    Err(error) => Err(error),
                }
            }
        };
        answered.map_err(|error| told(&error))
    }
}

/// Without a provider rustls would panic when it connects.
fn check_tls<'a>(servers: impl IntoIterator<Item = &'a ConnectionInfo>) -> Result<(), StoreError> {
    let tls = |server: &ConnectionInfo| matches!(server.addr(), ConnectionAddr::TcpTls { .. });
    #[cfg(feature = "redis-tls")]
    let provided = rustls::crypto::CryptoProvider::get_default().is_some();
    #[cfg(not(feature = "redis-tls"))]
    let provided = false;
    match provided || !servers.into_iter().any(tls) {
        true => Ok(()),
        false => Err(NO_TLS),
    }
}

fn read(manager: &RwLock<ConnectionManager>) -> ConnectionManager {
    let manager = manager.read().unwrap_or_else(PoisonError::into_inner);
    manager.clone()
}

/// One attempt to connect for each use that finds no connection: a server that is back is found at
/// once.
fn manage(client: &Client) -> Result<ConnectionManager, StoreError> {
    let config = ConnectionManagerConfig::new()
        .set_number_of_retries(0)
        .set_connection_timeout(Some(TIMEOUT))
        .set_response_timeout(Some(TIMEOUT));
    ConnectionManager::new_lazy_with_config(client.clone(), config).map_err(|error| told(&error))
}

impl SessionStore for RedisStore {
    fn load(&self, key: StoreKey) -> StoreFuture<'_, Option<Stored>> {
        Box::pin(async move {
            let command = Cmd::new().arg("GET").arg(self.key(key)).take();
            let Some(stored) = self.query::<Option<Vec<u8>>>(&command).await? else {
                return Ok(None);
            };
            let revision = stored.first_chunk().ok_or(NOT_OURS)?;
            let revision = Revision::new(u64::from_be_bytes(*revision));
            let value = Bytes::from(stored).slice(REVISION..);
            Ok(Some(Stored { value, revision }))
        })
    }

    fn save(
        &self,
        key: StoreKey,
        value: Bytes,
        expected: Option<Revision>,
        ttl: Duration,
    ) -> StoreFuture<'_, Saved> {
        Box::pin(async move {
            // One key has but a handful of revisions at a time, and 64 random bits tell them
            // apart.
            let revision = getrandom::u64().map_err(|_| NOT_RANDOM)?;
            let expected = expected.map(|revision| revision.get().to_be_bytes());
            let ttl = ttl.clamp(Duration::from_millis(1), LONGEST_TTL);
            let command = Cmd::new()
                .arg("EVAL")
                .arg(SAVE)
                .arg(1)
                .arg(self.key(key))
                .arg(expected.as_ref().map_or(&[][..], |revision| &revision[..]))
                .arg([&revision.to_be_bytes()[..], &value].concat())
                .arg(ttl.as_millis() as u64)
                .take();
            Ok(match self.query::<bool>(&command).await? {
                true => Saved::Yes(Revision::new(revision)),
                false => Saved::Conflict,
            })
        })
    }

    fn remove(&self, key: StoreKey) -> StoreFuture<'_, ()> {
        Box::pin(async move {
            let command = Cmd::new().arg("DEL").arg(self.key(key)).take();
            self.query::<u64>(&command).await.map(drop)
        })
    }
}

const NO_URL: StoreError = StoreError::new(StoreErrorKind::Other, "its URL is not usable");
const NOT_RANDOM: StoreError = StoreError::new(StoreErrorKind::Other, "no randomness to be had");
const NO_TLS: StoreError = StoreError::new(
    StoreErrorKind::Other,
    "TLS needs the feature `redis-tls` and a default provider of rustls",
);
const NOT_OURS: StoreError = StoreError::new(
    StoreErrorKind::Corrupt,
    "there is something else under a key of ours",
);

/// What may be told of an error: its text may hold an address, a user or a key.
fn told(error: &RedisError) -> StoreError {
    use StoreErrorKind::{Full, Other, TimedOut, Unavailable};
    let (kind, reason) = match (error.kind(), error.code()) {
        (_, Some("OOM")) => (Full, "its memory is used up"),
        (_, Some("WRONGTYPE")) => return NOT_OURS,
        (_, Some("NOAUTH" | "WRONGPASS" | "NOPERM")) | (ErrorKind::AuthenticationFailed, _) => {
            (Unavailable, "it refuses our user")
        }
        (_, Some("MOVED" | "ASK")) => (Unavailable, "it is part of a cluster"),
        (_, Some("READONLY")) => (Unavailable, "it is a replica"),
        (_, Some("LOADING" | "BUSY" | "TRYAGAIN" | "CLUSTERDOWN" | "MASTERDOWN")) => {
            (Unavailable, "it is not ready")
        }
        _ if error.is_timeout() => (TimedOut, "no answer"),
        (ErrorKind::Io | ErrorKind::ClusterConnectionNotFound, _) => (Unavailable, "no connection"),
        _ => (Other, "it answered with an error"),
    };
    StoreError::new(kind, reason)
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n5_a_server_that_is_not_ready_is_unavailable() {
        for code in ["LOADING", "BUSY", "TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN"] {
            let answer = format!("-{code} not now\r\n");
            let answer = redis::parse_redis_value(answer.as_bytes());
            let error = answer.and_then(redis::Value::extract_error).unwrap_err();
            let told = told(&error);
            assert_eq!(told.kind(), StoreErrorKind::Unavailable, "{code}");
            assert!(told.to_string().contains("it is not ready"), "{code}");
        }
    }
}
