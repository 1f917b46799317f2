//! The proxy under load for a while: 1,000 open streams and 200 requests a second, sessions that
//! come and go, and, in the last third of the time, a server that loses all of them again and again.
//!
//! ```sh
//! cargo test --release -p proxy --test soak -- --ignored --nocapture
//! ```
//!
//! A minute, or `SOAK_SECONDS`.

#[path = "support/program.rs"]
mod program;

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use http::{Method, Request};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use program::Proxy;
use serde_json::{Value, json};
use testing::loopback::*;
use testing::*;
use tokio::{
    task::{JoinHandle, JoinSet},
    time::MissedTickBehavior,
};

const STREAMS: usize = 1000;
const REQUESTS_PER_SECOND: u32 = 200;
/// Of those, so many end a session and begin another.
const EVERY_NTH_ENDS_A_SESSION: u64 = 20;
const LOST_EVERY: Duration = Duration::from_secs(7);

/// A server with no memory but of what lives: [`Server`] keeps all that it has seen.
#[derive(Clone, Default)]
struct Upstream(Arc<State>);

#[derive(Default)]
struct State {
    minted: AtomicU64,
    initialized: AtomicUsize,
    /// The live sessions, and the listening stream of each.
    sessions: Mutex<HashMap<String, Option<Tap>>>,
}

impl Upstream {
    /// As a restart does it, streams included.
    fn lose_sessions(&self) {
        self.0.sessions.lock().unwrap().clear();
    }

    /// Sends an event to whoever listens; gives how many those are.
    fn tell_all(&self, event: &'static str) -> usize {
        let sessions = self.0.sessions.lock().unwrap();
        sessions
            .values()
            .flatten()
            .map(|tap| tap.send(event))
            .count()
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Reply, Infallible> {
        let profile = Profile::TypeScript;
        let (head, body) = request.into_parts();
        let body = body
            .collect()
            .await
            .map(|body| body.to_bytes())
            .unwrap_or_default();
        let message: Value = serde_json::from_slice(&body).unwrap_or_default();
        let id = message["id"].clone();
        let mut sessions = self.0.sessions.lock().unwrap();
        let Some(session) = head.headers.get(SESSION_ID) else {
            let minted = format!("session-{}", self.0.minted.fetch_add(1, Ordering::Relaxed));
            self.0.initialized.fetch_add(1, Ordering::Relaxed);
            let result = json!({"protocolVersion": VERSION, "capabilities": {}, "serverInfo": {"name": "soak", "version": "1"}});
            let mut answer = profile.answer(&json!({"jsonrpc": "2.0", "result": result, "id": id}));
            answer
                .headers_mut()
                .insert(SESSION_ID, minted.parse().unwrap());
            sessions.insert(minted, None);
            return Ok(answer);
        };
        let session = session.to_str().unwrap();
        let Some(stream) = sessions.get_mut(session) else {
            return Ok(profile.unknown_session(&id));
        };
        Ok(match head.method {
            Method::GET => {
                let (tap, body) = tap();
                *stream = Some(tap);
                event_stream(body)
            }
            Method::DELETE => {
                sessions.remove(session);
                reply(200, None, "")
            }
            _ if id.is_null() => reply(202, None, ""),
            _ => profile.answer(&json!({"jsonrpc": "2.0", "result": message["params"], "id": id})),
        })
    }
}

/// A client with a session, and its listening stream, which is opened again when it ends, as real
/// clients do.
struct Caller {
    http: Http,
    url: Arc<str>,
    session: String,
    stream: JoinHandle<()>,
}

/// What the clients count together.
#[derive(Default)]
struct Counts {
    events: AtomicUsize,
    open: AtomicUsize,
    reopened: AtomicUsize,
}

impl Caller {
    async fn connect(http: Http, url: Arc<str>, counts: Arc<Counts>) -> Self {
        let answer = fetch(&http, to(&url, post(None, &initialize()))).await;
        let session = answer.session().expect("a session").to_owned();
        let accepted = fetch(&http, to(&url, post(Some(&session), &initialized()))).await;
        assert_eq!(accepted.status, 202);
        let mut response = open(&http, to(&url, get(&session, None))).await;
        let (again, at, id) = (http.clone(), url.clone(), session.clone());
        let stream = tokio::spawn(async move {
            loop {
                assert_eq!(response.status(), 200);
                let open = Open::new(&counts);
                while let Some(Ok(frame)) = response.body_mut().frame().await {
                    let events = frame.data_ref().map_or(0, |data| {
                        data.windows(6).filter(|bytes| *bytes == b"data: ").count()
                    });
                    counts.events.fetch_add(events, Ordering::Relaxed);
                }
                drop(open);
                counts.reopened.fetch_add(1, Ordering::Relaxed);
                response = loopback::open(&again, to(&at, get(&id, None))).await;
            }
        });
        Self {
            http,
            url,
            session,
            stream,
        }
    }

    async fn call(http: Http, url: Arc<str>, session: String, n: u64) -> Duration {
        let started = Instant::now();
        let answer = fetch(&http, to(&url, post(Some(&session), &tool_call(n)))).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.message()["result"]["arguments"]["n"], n);
        started.elapsed()
    }

    async fn close(self) {
        self.stream.abort();
        let answer = fetch(&self.http, to(&self.url, delete(&self.session))).await;
        assert!(matches!(answer.status, 200 | 404), "{}", answer.status);
    }
}

/// Counts a stream while it is open.
struct Open(Arc<Counts>);

impl Open {
    fn new(counts: &Arc<Counts>) -> Self {
        counts.open.fetch_add(1, Ordering::Relaxed);
        Self(counts.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The resident memory of a process, in KiB, and how many files it has open. Linux tells.
fn footprint(pid: u32) -> Option<(u64, usize)> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let rss = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count();
    Some((rss.trim().trim_end_matches(" kB").parse().ok()?, files))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute and much of the machine"]
async fn a_thousand_streams_and_200_requests_a_second_in_flat_memory() {
    let seconds = std::env::var("SOAK_SECONDS").map_or(60, |seconds| seconds.parse().unwrap());
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    // Given a thousand clients with a session and an open stream each, of either HTTP version,
    let server = Upstream::default();
    let service = server.clone();
    let upstream = Loopback::serve(tower::service_fn(move |request| {
        service.clone().answer(request)
    }))
    .await;
    let proxy = Proxy::start(&upstream.url(), &["--log", "warn"]).await;
    let url: Arc<str> = proxy.url.as_str().into();
    let counts = Arc::new(Counts::default());
    let clients = [http1(), http2()];
    let idle = footprint(proxy.id());
    let mut callers = Vec::new();
    for n in 0..STREAMS {
        let http = clients[n % 2].clone();
        callers.push(Caller::connect(http, url.clone(), counts.clone()).await);
    }

    // when they call for a while, and then the server loses their sessions again and again,
    let started = Instant::now();
    let end = started + Duration::from_secs(seconds);
    let mut tick = tokio::time::interval(Duration::from_secs(1) / REQUESTS_PER_SECOND);
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (mut calls, mut losses, mut samples, mut latencies) =
        (JoinSet::new(), 0, Vec::new(), Vec::new());
    let steady = Duration::from_secs(seconds) * 2 / 3;
    let (mut next_loss, mut next_sample) = (started + steady, started);
    let (mut joining, mut leaving) = (JoinSet::new(), JoinSet::new());
    let mut sent = 0;
    while Instant::now() < end {
        tick.tick().await;
        sent += 1;
        let which = sent as usize % STREAMS;
        if sent % EVERY_NTH_ENDS_A_SESSION == 0 {
            // One that is not called just now.
            let which = (which + STREAMS / 2) % STREAMS;
            let (http, url) = (callers[which].http.clone(), url.clone());
            let counts = counts.clone();
            joining.spawn(async move { (which, Caller::connect(http, url, counts).await) });
        }
        while let Some(joined) = joining.try_join_next() {
            let (which, new) = joined.expect("a session begins");
            let old = std::mem::replace(&mut callers[which], new);
            leaving.spawn(old.close());
        }
        while let Some(left) = leaving.try_join_next() {
            left.expect("a session ends");
        }
        let caller = &callers[which];
        calls.spawn(Caller::call(
            caller.http.clone(),
            url.clone(),
            caller.session.clone(),
            sent,
        ));
        while let Some(latency) = calls.try_join_next() {
            latencies.push(latency.expect("a call is answered"));
        }
        let now = Instant::now();
        if now >= next_sample {
            next_sample += Duration::from_secs(1);
            samples.extend(footprint(proxy.id()));
            server.tell_all("data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\"}\n\n");
        }
        // The last loss comes early enough for each client to call once more.
        if now >= next_loss && end - now > Duration::from_secs(6) {
            next_loss += LOST_EVERY;
            losses += 1;
            server.lose_sessions();
        }
    }
    let elapsed = started.elapsed();
    while let Some(joined) = joining.join_next().await {
        let (which, new) = joined.expect("a session begins");
        std::mem::replace(&mut callers[which], new).close().await;
    }
    while let Some(left) = leaving.join_next().await {
        left.expect("a session ends");
    }
    while let Some(latency) = calls.join_next().await {
        latencies.push(latency.expect("a call is answered"));
    }

    // then every call was answered, every stream is open and brings what the server sends,
    assert_eq!(latencies.len() as u64, sent);
    let rate = sent as f64 / elapsed.as_secs_f64();
    assert!(
        rate > f64::from(REQUESTS_PER_SECOND) * 0.95,
        "{rate} requests a second"
    );
    soon("every stream is open", async {
        while counts.open.load(Ordering::Relaxed) < STREAMS {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let before = counts.events.load(Ordering::Relaxed);
    assert_eq!(server.tell_all("data: last\n\n"), STREAMS);
    soon("every client is told", async {
        while counts.events.load(Ordering::Relaxed) < before + STREAMS {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!(
        callers
            .iter()
            .filter(|caller| caller.stream.is_finished())
            .count(),
        0
    );
    assert_eq!(proxy.log(), "");

    // and memory is flat.
    latencies.sort();
    let quantile = |q: f64| latencies[(q * (latencies.len() - 1) as f64) as usize];
    println!(
        "{STREAMS} streams, {sent} calls in {elapsed:.1?} ({rate:.0}/s): median {:.1?}, 99 % {:.1?}, \
         slowest {:.1?}",
        quantile(0.5),
        quantile(0.99),
        quantile(1.0),
    );
    println!(
        "{losses} losses of all sessions, {} handshakes, {} streams opened again by clients, {} events",
        server.0.initialized.load(Ordering::Relaxed),
        counts.reopened.load(Ordering::Relaxed),
        counts.events.load(Ordering::Relaxed),
    );
    let Some((idle, _)) = idle else { return };
    let (steady, losing) = samples.split_at(samples.len() * 2 / 3);
    let average =
        |part: &[(u64, usize)]| part.iter().map(|(rss, _)| *rss).sum::<u64>() / part.len() as u64;
    let third = steady.len() / 3;
    let (middle, last) = (
        average(&steady[third..2 * third]),
        average(&steady[2 * third..]),
    );
    let peak = losing.iter().map(|(rss, _)| *rss).max().unwrap();
    let files = samples.iter().map(|(_, files)| *files).max().unwrap();
    println!(
        "proxy's memory: idle {idle} KiB; without losses {middle} KiB, then {last} KiB; with losses at \
         most {peak} KiB; at most {files} open files"
    );
    assert!(last < middle + middle / 20, "memory grows: {samples:?}");
    // A thousand recoveries at once take some, and the allocator keeps what it has.
    assert!(peak < 4 * last, "memory grows: {samples:?}");
}
