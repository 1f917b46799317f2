//! A `redis-server` that fails, and many callers of several proxies over one (rules N3, N5).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use testing::{
    loopback::{Loopback, fetch, http1, soon, to},
    mocked::{echoed, ping},
    *,
};
use tokio::time::sleep;

use crate::{program::Proxy, stored::Redis};

/// The layer's `store_timeout`, and room for a busy machine.
const SOON: Duration = Duration::from_millis(250 + 1250);

/// A session behind proxies that share a Redis.
struct Shared {
    redis: Redis,
    server: Server,
    loopback: Loopback,
    session: String,
    calls: u64,
}

impl Shared {
    async fn start() -> (Self, Proxy) {
        let redis = Redis::start().await;
        let server = Server::new(Profile::TypeScript);
        let loopback = Loopback::serve(server.service()).await;
        let mut shared = Self {
            redis,
            server,
            loopback,
            session: String::new(),
            calls: 0,
        };
        let proxy = shared.proxy().await;
        shared.session = opened(&proxy, None).await;
        shared.is_stored(1).await;
        (shared, proxy)
    }

    async fn proxy(&self) -> Proxy {
        let redis = self.redis.url();
        Proxy::start(&self.loopback.url(), &["--store", &redis]).await
    }

    async fn is_stored(&self, records: usize) {
        let says = format!("{records}");
        self.redis.until("it is stored", &["dbsize"], &says).await;
    }

    async fn answer(&mut self, proxy: &Proxy) -> (Answer, u64) {
        self.calls += 1;
        let call = post(Some(&self.session), &tool_call(self.calls));
        (fetch(&http1(), to(&proxy.url, call)).await, self.calls)
    }

    /// A call is answered, and does not wait for the store for longer than it may.
    async fn is_answered(&mut self, proxy: &Proxy) {
        let asked = Instant::now();
        let (answer, call) = self.answer(proxy).await;
        assert_eq!(echoed(&answer), call);
        assert!(asked.elapsed() < SOON, "{:?}", asked.elapsed());
    }

    /// So it is after the session was lost.
    async fn is_recovered(&mut self, proxy: &Proxy) {
        self.server.restart();
        self.is_answered(proxy).await;
    }

    /// What could not be written is, since a proxy that never saw the session goes on with it.
    async fn outlives_the_proxy(&mut self) {
        let started = Instant::now();
        loop {
            let proxy = self.proxy().await;
            let asked = Instant::now();
            let (answer, call) = self.answer(&proxy).await;
            assert!(asked.elapsed() < SOON, "{:?}", asked.elapsed());
            if answer.status == 200 {
                assert_eq!(echoed(&answer), call);
                return;
            }
            // Longer than the writer ever pauses.
            assert!(started.elapsed() < Duration::from_secs(15));
            sleep(Duration::from_millis(300)).await;
        }
    }

    async fn one_session_is_left(&self) {
        soon("one session is left", async {
            while self.server.live().len() != 1 {
                sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
    }
}

async fn opened(proxy: &Proxy, token: Option<&str>) -> String {
    let as_caller = |mut request: http::Request<CallerBody>| {
        if let Some(token) = token {
            let token = token.parse().unwrap();
            request.headers_mut().insert("authorization", token);
        }
        to(&proxy.url, request)
    };
    let answer = fetch(&http1(), as_caller(post(None, &initialize()))).await;
    let session = answer.session().expect("a session").to_owned();
    let initialized = post(Some(&session), &initialized());
    assert_eq!(fetch(&http1(), as_caller(initialized)).await.status, 202);
    session
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs redis-server: tests/stores/install"]
async fn n5_redis_that_is_stopped_costs_no_call() {
    let (mut shared, proxy) = Shared::start().await;
    shared.redis.stop();
    shared.is_answered(&proxy).await;
    shared.is_recovered(&proxy).await;
    shared.is_recovered(&proxy).await;
    // A proxy that is started meanwhile knows nothing, and says so at once.
    let late = shared.proxy().await;
    let asked = Instant::now();
    assert_eq!(shared.answer(&late).await.0.status, 404);
    assert!(asked.elapsed() < SOON);
    // It comes back with nothing in it.
    shared.redis.run(&[]).await;
    shared.outlives_the_proxy().await;
    shared.is_recovered(&proxy).await;
    shared.one_session_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs redis-server: tests/stores/install"]
async fn n5_redis_that_hangs_for_ten_seconds_costs_no_call() {
    let (mut shared, proxy) = Shared::start().await;
    shared.redis.signal("-STOP");
    let stopped = Instant::now();
    while stopped.elapsed() < Duration::from_secs(10) {
        shared.is_answered(&proxy).await;
        shared.is_recovered(&proxy).await;
        sleep(Duration::from_millis(500)).await;
    }
    shared.redis.signal("-CONT");
    shared.outlives_the_proxy().await;
    shared.is_recovered(&proxy).await;
    shared.one_session_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs redis-server: tests/stores/install"]
async fn n5_redis_that_is_full_flushed_or_holds_garbage_costs_no_call() {
    let (mut shared, proxy) = Shared::start().await;
    // Full.
    shared.redis.cli(&["config", "set", "maxmemory", "1"]);
    shared.is_recovered(&proxy).await;
    shared.is_recovered(&proxy).await;
    shared.redis.cli(&["config", "set", "maxmemory", "0"]);
    shared.outlives_the_proxy().await;

    // Flushed: what was lost is what the store lost, until the session changes.
    shared.redis.cli(&["flushall"]);
    shared.is_answered(&proxy).await;
    shared.is_recovered(&proxy).await;
    shared.outlives_the_proxy().await;

    // Garbage.
    let key = shared.redis.cli(&["keys", "*"]);
    for garbage in [
        &["set", &*key, "short"][..],
        &["set", &*key, "eight byand then what is no record"],
        &["hset", &*key, "a", "b"],
    ] {
        let mut tries = 0;
        loop {
            shared.redis.cli(&["del", &key]);
            shared.redis.cli(garbage);
            let late = shared.proxy().await;
            // Whoever was about to write a record does so, over garbage as well.
            if shared.answer(&late).await.0.status == 404 {
                break;
            }
            tries += 1;
            assert!(tries < 5);
        }
        shared.is_answered(&proxy).await;
        shared.is_recovered(&proxy).await;
        shared.outlives_the_proxy().await;
    }
    shared.is_recovered(&proxy).await;
    shared.one_session_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs redis-server: tests/stores/install"]
async fn n5_a_failover_that_loses_the_last_second_costs_no_call() {
    // Given a replica that has all but the last epoch,
    let (mut shared, proxy) = Shared::start().await;
    shared.is_recovered(&proxy).await;
    let mut replica = Redis::start().await;
    let primary = shared.redis.port.to_string();
    replica.cli(&["replicaof", "127.0.0.1", &primary]);
    replica.until("it is replicated", &["dbsize"], "1").await;
    replica.cli(&["replicaof", "no", "one"]);
    shared.is_recovered(&proxy).await;

    // when that takes the primary's place,
    let from = format!("127.0.0.1 {}", replica.port);
    shared.redis.stop();
    shared.redis.run(&["--replicaof", &from]).await;
    shared.is_stored(1).await;
    shared.redis.cli(&["replicaof", "no", "one"]);
    replica.stop();

    // then calls are answered through whoever knows the last epoch, and who does not,
    shared.is_answered(&proxy).await;
    let late = shared.proxy().await;
    shared.is_answered(&late).await;
    shared.is_answered(&proxy).await;
    // and after the next loss they are in one session again.
    shared.server.restart();
    for _ in 0..2 {
        shared.is_answered(&proxy).await;
        shared.is_answered(&late).await;
    }
    shared.one_session_is_left().await;
}

/// N1: a proxy that ends waits until its store has what it was told.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs redis-server: tests/stores/install"]
async fn n1_what_is_queued_is_written_before_the_proxy_ends() {
    let (mut shared, _) = Shared::start().await;
    let redis = shared.redis.url();
    let args = ["--store", &*redis, "--grace", "0s"];
    let proxy = Proxy::start(&shared.loopback.url(), &args).await;
    // Given a store that takes its time, and a session that it has not been told of yet,
    shared.redis.cli(&["client", "pause", "600", "write"]);
    shared.session = opened(&proxy, None).await;
    // when the proxy ends,
    proxy.signal("TERM");
    proxy.ends().await;
    // then the next one goes on with it.
    let next = shared.proxy().await;
    shared.is_recovered(&next).await;
}

const CALLERS: usize = 64;

/// `STORE_LOSSES` says how many.
const LOSSES: usize = 5;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs redis-server: tests/stores/install"]
async fn n3_many_callers_of_four_proxies_each_have_one_session() {
    // Given callers with a token each, and what the server executes of whom in which session,
    let losses = std::env::var("STORE_LOSSES").ok();
    let losses = losses.map_or(LOSSES, |losses| losses.parse().expect("a number"));
    let redis = Redis::start().await;
    let server = Server::new(Profile::TypeScript);
    let executed = Arc::new(Mutex::new(Vec::new()));
    server.on({
        let (server, executed) = (server.clone(), executed.clone());
        move |seen| {
            if seen.what() != "tools/call" {
                return None;
            }
            let answer = server.default_answer(seen);
            if answer.status().is_success() {
                let call = seen.message()["id"].as_u64().unwrap();
                let session = seen.session().unwrap().to_owned();
                let whose = seen.header("authorization").unwrap().to_owned();
                executed.lock().unwrap().push((call, session, whose));
            }
            Some(answer)
        }
    });
    let loopback = Loopback::serve(server.service()).await;
    let mut proxies = Vec::new();
    for _ in 0..4 {
        proxies.push(Proxy::start(&loopback.url(), &["--store", &redis.url()]).await);
    }
    let client = http1();
    let mut callers = Vec::new();
    for caller in 0..CALLERS {
        let token = format!("Bearer {caller}");
        callers.push((opened(&proxies[caller % 4], Some(&token)).await, token));
    }
    let stored = CALLERS.to_string();
    redis.until("all are stored", &["dbsize"], &stored).await;

    // when the server loses all sessions, again and again, while they call through any proxy,
    let started = Instant::now();
    let (mut answered, mut refused) = (0, 0);
    for loss in 0..losses {
        let calls = callers
            .iter()
            .enumerate()
            .flat_map(|(caller, (session, token))| {
                (0..2).map(move |turn| (caller, turn, session.clone(), token.clone()))
            });
        let tasks: Vec<_> = calls
            .map(|(caller, turn, session, token)| {
                let id = ((loss * CALLERS + caller) * 2 + turn) as u64;
                let url = &proxies[(caller + turn + loss) % 4].url;
                let mut request = to(url, post(Some(&session), &tool_call(id)));
                let token = token.parse().unwrap();
                request.headers_mut().insert("authorization", token);
                let client = client.clone();
                tokio::spawn(async move { (id, fetch(&client, request).await) })
            })
            .collect();
        // At another point of the calls each time.
        sleep(Duration::from_millis(loss as u64 * 7 % 40)).await;
        server.restart();
        for task in tasks {
            let (id, answer) = task.await.unwrap();
            match answer.status {
                200 => {
                    assert_eq!(echoed(&answer), id);
                    answered += 1;
                }
                // The replay met a loss, too (rule F1).
                404 => refused += 1,
                _ => panic!("{answer:?}"),
            }
        }
    }
    // and once more, with nothing lost,
    for (number, (session, token)) in callers.iter().enumerate() {
        for proxy in &proxies {
            let id = (1_000_000 + number) as u64;
            let answered = tokio::time::timeout(Duration::from_secs(15), async {
                loop {
                    let mut request = to(&proxy.url, post(Some(session), &ping(id)));
                    let token = token.parse().unwrap();
                    request.headers_mut().insert("authorization", token);
                    if fetch(&client, request).await.status == 200 {
                        break;
                    }
                    // The last loss may have met an attempt, so that there is a pause (rule K6).
                    sleep(Duration::from_millis(100)).await;
                }
            });
            assert!(answered.await.is_ok(), "{number}");
        }
    }

    // then no call was executed twice, nor in a session that somebody else was in,
    let executed = executed.lock().unwrap().clone();
    let ids = BTreeSet::from_iter(executed.iter().map(|(call, ..)| call));
    assert_eq!(ids.len(), executed.len(), "a call was executed twice");
    assert!(ids.len() >= answered, "an answer without a call");
    let mut owners = BTreeMap::new();
    for (_, session, whose) in &executed {
        assert_eq!(owners.entry(session).or_insert(whose), &whose);
    }
    // and each caller has one session on the server: also where a proxy on a busy machine had no
    // answer of the store in time and went on alone. The next call leads it to the others, and what
    // it leaves is ended when nothing can run in it any more, after the layer's `orphan_timeout`.
    let ended = tokio::time::timeout(Duration::from_secs(60), async {
        while server.live().len() != CALLERS {
            for (session, token) in &callers {
                for proxy in &proxies {
                    let mut request = to(&proxy.url, post(Some(session), &ping(0)));
                    let token = token.parse().unwrap();
                    request.headers_mut().insert("authorization", token);
                    fetch(&client, request).await;
                }
            }
            sleep(Duration::from_secs(1)).await;
        }
    });
    let says: Vec<_> = proxies.iter().map(|proxy| proxy.log()).collect();
    let away: usize = says
        .iter()
        .map(|log| log.matches("not stored for now").count())
        .sum();
    assert!(
        ended.await.is_ok(),
        "{} sessions; the store was away {away} times",
        server.live().len(),
    );
    println!(
        "\n{losses} losses in {:?}: {answered} calls answered, {refused} refused, {} handshakes; \
         the store was away {away} times",
        started.elapsed(),
        server.count("initialize"),
    );
}
