//! The store in Redis, against a real `redis-server` (rules N5, N7).

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use mcp_session_recovery::store::{
    RedisStore, Saved, SessionStore, StoreErrorKind, StoreKey, conformance,
};

const DAY: Duration = Duration::from_secs(86_400);
const KEY: StoreKey = StoreKey::from_bytes([0xab; 32]);

/// A server of its own for a test.
pub struct Server {
    process: Child,
    port: u16,
    directory: tempfile::TempDir,
}

impl Server {
    pub fn start(arguments: &[&str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let directory = tempfile::tempdir().unwrap();
        let process = run(port, &directory, arguments);
        let server = Self {
            process,
            port,
            directory,
        };
        server.wait();
        server
    }

    fn restart(&mut self, arguments: &[&str]) {
        self.stop();
        self.process = run(self.port, &self.directory, arguments);
        self.wait();
    }

    fn stop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn signal(&self, signal: &str) {
        let pid = self.process.id().to_string();
        assert!(
            Command::new("kill")
                .args([signal, &pid])
                .status()
                .unwrap()
                .success()
        );
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn store(&self) -> RedisStore {
        RedisStore::connect(&self.url()).unwrap()
    }

    pub fn cli(&self, arguments: &[&str]) -> String {
        let output = Command::new("redis-cli")
            .args(["-p", &self.port.to_string()])
            .args(arguments)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Every byte of the files that it appends to.
    pub fn appended(&self) -> Vec<u8> {
        let read = |entry: std::io::Result<std::fs::DirEntry>| {
            let path = entry.unwrap().path();
            // Redis 6 has one file, Redis 7 a directory of them.
            match path.is_dir() {
                true => std::fs::read_dir(path)
                    .unwrap()
                    .flat_map(|it| std::fs::read(it.unwrap().path()).unwrap())
                    .collect(),
                false => std::fs::read(path).unwrap(),
            }
        };
        let entries = std::fs::read_dir(self.directory.path()).unwrap();
        entries.flat_map(read).collect::<Vec<u8>>()
    }

    fn wait(&self) {
        let started = Instant::now();
        while !["PONG", "NOAUTH"]
            .iter()
            .any(|ready| self.cli(&["ping"]).starts_with(ready))
        {
            assert!(
                started.elapsed() < Duration::from_secs(10),
                "no redis-server"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn run(port: u16, directory: &tempfile::TempDir, arguments: &[&str]) -> Child {
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
        .args(["--save", ""])
        .args(arguments)
        .current_dir(directory.path())
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server is not installed")
}

fn key() -> String {
    format!("mcp-session:{KEY}")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs redis-server"]
async fn n7_the_store_in_redis_conforms() {
    let server = Server::start(&[]);
    conformance::check(server.store().prefix("{one slot} ")).await;
    assert_eq!(server.cli(&["dbsize"]), "0");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs redis-server"]
async fn n7_the_store_in_a_cluster_conforms() {
    let servers: Vec<_> = (0..3)
        .map(|_| Server::start(&["--cluster-enabled", "yes"]))
        .collect();
    let nodes: Vec<_> = servers
        .iter()
        .map(|server| format!("127.0.0.1:{}", server.port))
        .collect();
    let made = Command::new("redis-cli")
        .args(["--cluster", "create"])
        .args(&nodes)
        .arg("--cluster-yes")
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    while servers
        .iter()
        .any(|server| !server.cli(&["cluster", "info"]).contains("state:ok"))
    {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    let first = servers[0].url();
    conformance::check(RedisStore::connect_cluster([&*first]).unwrap()).await;

    let alone = servers[0].store();
    let mut kinds = Vec::new();
    for number in 0..16 {
        let loaded = alone.load(StoreKey::from_bytes([number; 32])).await;
        kinds.extend(loaded.err().map(|error| error.kind()));
    }
    assert!(
        !kinds.is_empty()
            && kinds
                .iter()
                .all(|kind| *kind == StoreErrorKind::Unavailable)
    );
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn n5_a_password_by_url_and_no_secret_in_an_error() {
    let server = Server::start(&["--requirepass", "canary"]);
    let store = |user: &str| {
        RedisStore::connect(&format!("redis://{user}@127.0.0.1:{}", server.port)).unwrap()
    };

    store(":canary").ping().await.unwrap();
    for user in [":wrong-canary", "canary:canary"] {
        let store = store(user);
        let error = store.ping().await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Unavailable);
        assert!(!format!("{error} {error:?} {store:?}").contains("canary"));
    }
    let error = server.store().ping().await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    let error = RedisStore::connect("http://canary@x").unwrap_err();
    assert!(!format!("{error} {error:?}").contains("canary"));
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn n5_a_server_that_was_away_is_found_again() {
    let mut server = Server::start(&[]);
    let store = server.store();
    store.ping().await.unwrap();

    server.stop();
    for _ in 0..3 {
        let error = store.ping().await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    }
    server.restart(&[]);

    // One use may still find the connection that was lost.
    let _ = store.ping().await;
    store.ping().await.unwrap();
    assert_eq!(store.load(KEY).await, Ok(None));
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn n5_a_server_that_hangs_times_out_and_goes_on() {
    let server = Server::start(&[]);
    let store = server.store();
    let first = store.save(KEY, "1".into(), None, DAY).await.unwrap();

    server.signal("-STOP");
    let started = Instant::now();
    let error = store.load(KEY).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::TimedOut);
    assert!(started.elapsed() < Duration::from_secs(4));
    server.signal("-CONT");

    let stored = store.load(KEY).await.unwrap().unwrap();
    assert_eq!(
        (Saved::Yes(stored.revision), &*stored.value),
        (first, &b"1"[..])
    );
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn n5_a_server_that_is_full_takes_nothing_and_loses_nothing() {
    let server = Server::start(&["--maxmemory-policy", "noeviction"]);
    let store = server.store();
    let Saved::Yes(first) = store.save(KEY, "1".into(), None, DAY).await.unwrap() else {
        panic!("not saved");
    };

    server.cli(&["config", "set", "maxmemory", "1"]);
    let error = store.save(KEY, "2".into(), Some(first), DAY).await;
    assert_eq!(error.unwrap_err().kind(), StoreErrorKind::Full);
    assert_eq!(store.load(KEY).await.unwrap().unwrap().revision, first);
    server.cli(&["config", "set", "maxmemory", "0"]);

    let saved = store.save(KEY, "2".into(), Some(first), DAY).await;
    assert!(matches!(saved, Ok(Saved::Yes(_))));
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn n5_what_is_no_value_of_ours_is_told_and_does_not_stay() {
    let server = Server::start(&[]);
    let store = server.store();
    for garbage in [
        &["set", &key(), "short"][..],
        &["hset", &key(), "a", "b"],
        &["lpush", &key(), "a"],
    ] {
        server.cli(&["del", &key()]);
        server.cli(garbage);
        let error = store.load(KEY).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Corrupt, "{garbage:?}");
        let saved = store.save(KEY, "1".into(), None, DAY).await;
        assert!(matches!(saved, Ok(Saved::Yes(_))), "{garbage:?}");
    }
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn n5_a_primary_that_became_a_replica_is_left() {
    let primary = Server::start(&[]);
    let store = primary.store();
    store.save(KEY, "1".into(), None, DAY).await.unwrap();
    let replica = Server::start(&["--replicaof", &format!("127.0.0.1 {}", primary.port)]);
    let store_of_replica = replica.store();

    let refused = store_of_replica.save(KEY, "2".into(), None, DAY).await;
    assert_eq!(refused.unwrap_err().kind(), StoreErrorKind::Unavailable);
    let before = replica.cli(&["info", "stats"]);
    store_of_replica.ping().await.unwrap();
    let after = replica.cli(&["info", "stats"]);
    let connections = |stats: &str| {
        let line = stats
            .lines()
            .find(|line| line.starts_with("total_connections_received"));
        line.and_then(|line| line.trim().rsplit(':').next()?.parse::<u64>().ok())
            .unwrap()
    };
    // That of `redis-cli`, and a new one of the store's.
    assert_eq!(connections(&after) - connections(&before), 2);

    replica.cli(&["replicaof", "no", "one"]);
    let saved = store_of_replica
        .save(StoreKey::from_bytes([1; 32]), "3".into(), None, DAY)
        .await;
    assert!(matches!(saved, Ok(Saved::Yes(_))));
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn n6_keys_expire_in_redis_itself() {
    let server = Server::start(&[]);
    let store = server.store();
    store.save(KEY, "1".into(), None, DAY).await.unwrap();
    let left: i64 = server.cli(&["pttl", &key()]).parse().unwrap();
    assert!((86_000_000..=86_400_000).contains(&left), "{left}");
}

/// Not a test: the process that trusts the authority that the environment names.
#[tokio::test]
#[ignore = "run by the test below, in a process of its own"]
async fn child_over_tls() {
    let Ok(url) = std::env::var("STORE_URL") else {
        return;
    };
    let error = RedisStore::connect(&url).unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Other);
    let provider = rustls::crypto::ring::default_provider();
    provider.install_default().unwrap();
    RedisStore::connect(&url).unwrap().ping().await.unwrap();
    let error = RedisStore::connect(&url.replace("localhost", "127.0.0.1")).unwrap();
    let error = error.ping().await.unwrap_err();
    assert_eq!(
        error.kind(),
        StoreErrorKind::Unavailable,
        "a certificate of another name"
    );
}

#[test]
#[ignore = "needs redis-server"]
fn n7_over_tls_the_servers_certificate_counts() {
    let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let [certificate, key] = ["certificate", "key"].map(|name| directory.path().join(name));
    std::fs::write(&certificate, issued.cert.pem()).unwrap();
    std::fs::write(&key, issued.signing_key.serialize_pem()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let _server = Server::start(&[
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        certificate.to_str().unwrap(),
        "--tls-key-file",
        key.to_str().unwrap(),
        "--tls-auth-clients",
        "no",
    ]);

    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "redis::child_over_tls", "--ignored"])
        .env("STORE_URL", format!("rediss://localhost:{port}"))
        .env("SSL_CERT_FILE", &certificate)
        .output()
        .unwrap();

    let said = String::from_utf8_lossy(&child.stdout);
    assert!(
        child.status.success() && said.contains("1 passed"),
        "{said}"
    );
}
