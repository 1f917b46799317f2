//! What is in the bytes that a store keeps: no credentials, and sealed nothing else either
//! (rule N2).

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use mcp_session_recovery::{
    Principal, SessionRecoveryLayer,
    store::{
        MemoryStore, RedbStore, Revision, Saved, SealKey, Sealed, SessionStore, StoreFuture,
        StoreKey, Stored,
    },
};
use serde_json::json;
use testing::{mocked::*, *};

use crate::redis;

/// What the client's `initialize` says is no credential, and is in a plain record.
const CLIENT: &str = "the-name-of-the-client";

/// Has a session recorded and recovered, with something secret in everything that can hold it.
/// Gives its ids.
async fn recovered(store: impl SessionStore) -> [String; 2] {
    let server = Server::new(Profile::TypeScript);
    let layer = SessionRecoveryLayer::new().store(store).principal(|parts| {
        let user = parts.headers.get("x-user")?;
        Some(Principal::from(user))
    });
    let client = mocked(&server, layer);
    let request = |session: Option<&str>, message| {
        let credentials = [
            ("authorization", "Bearer canary-a"),
            ("cookie", "session=canary-b"),
            ("x-api-key", "canary-c"),
            ("proxy-authorization", "canary-d"),
            ("x-user", "canary-e"),
        ];
        let mut request = with_headers(post(session, message), &credentials);
        let uri = "http://user:canary-f@mcp.test/mcp?token=canary-g";
        *request.uri_mut() = uri.parse().unwrap();
        request
    };
    let mut opening = initialize();
    opening["params"]["clientInfo"]["name"] = json!(CLIENT);
    let opened = send(&client, request(None, &opening)).await;
    let callers = opened.session().unwrap().to_owned();
    stored().await;
    server.restart();
    let answer = send(&client, request(Some(&callers), &tool_call(1))).await;
    assert_eq!(echoed(&answer), 1);
    stored().await;
    let upstream = server.live().remove(0);
    [callers, upstream]
}

/// Lets what is written behind be written.
async fn stored() {
    tokio::time::sleep(Duration::from_millis(200)).await;
}

#[derive(Clone, Copy, PartialEq)]
enum Kept {
    Plain,
    Sealed,
}

fn check(bytes: &[u8], [callers, upstream]: [String; 2], kept: Kept) {
    let has = |text: &str| bytes.windows(text.len()).any(|it| it == text.as_bytes());
    assert!(!bytes.is_empty());
    assert!(!has("canary"), "a credential");
    assert!(!has(&callers), "the caller's id");
    let is_plain = kept == Kept::Plain;
    assert_eq!(has(&upstream), is_plain, "the server's id");
    assert_eq!(has(CLIENT), is_plain, "the caller's `initialize`");
    assert_eq!(has("mcp.test"), is_plain, "the endpoint");
}

fn sealed(store: impl SessionStore) -> impl SessionStore {
    Sealed::new(store, SealKey::from_bytes([7; 32]))
}

/// A store in memory that notes every byte it is given.
#[derive(Clone, Default)]
struct Noting {
    memory: MemoryStore,
    bytes: Arc<Mutex<Vec<u8>>>,
}

impl SessionStore for Noting {
    fn load(&self, key: StoreKey) -> StoreFuture<'_, Option<Stored>> {
        self.memory.load(key)
    }

    fn save(
        &self,
        key: StoreKey,
        value: Bytes,
        expected: Option<Revision>,
        ttl: Duration,
    ) -> StoreFuture<'_, Saved> {
        let mut bytes = self.bytes.lock().unwrap();
        bytes.extend_from_slice(key.to_string().as_bytes());
        bytes.extend_from_slice(&value);
        drop(bytes);
        self.memory.save(key, value, expected, ttl)
    }

    fn remove(&self, key: StoreKey) -> StoreFuture<'_, ()> {
        self.memory.remove(key)
    }
}

#[tokio::test]
async fn n2_no_credential_is_in_memory() {
    let store = Noting::default();
    let ids = recovered(store.clone()).await;
    check(&store.bytes.lock().unwrap(), ids, Kept::Plain);

    let store = Noting::default();
    let ids = recovered(sealed(store.clone())).await;
    check(&store.bytes.lock().unwrap(), ids, Kept::Sealed);
}

#[tokio::test]
async fn n2_no_credential_is_in_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let open = async |path: &Path| RedbStore::open(path).await.unwrap();

    let path = directory.path().join("plain");
    let ids = recovered(open(&path).await).await;
    check(&std::fs::read(&path).unwrap(), ids, Kept::Plain);

    let path = directory.path().join("sealed");
    let ids = recovered(sealed(open(&path).await)).await;
    check(&std::fs::read(&path).unwrap(), ids, Kept::Sealed);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs redis-server"]
async fn n2_no_credential_is_in_redis() {
    // What goes over the wire is what is appended to its file: every command with its arguments.
    let server = redis::Server::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let ids = recovered(server.store()).await;
    check(&server.appended(), ids, Kept::Plain);

    let server = redis::Server::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let ids = recovered(sealed(server.store())).await;
    check(&server.appended(), ids, Kept::Sealed);
}
