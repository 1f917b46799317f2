//! What the layer costs over a socket, and how fast it recovers: `cargo bench -p benches --bench loopback`,
//! with `-- calls`, `-- recovery`, `-- storm` or `-- rmcp` for one part of it.
//!
//! A hyper client and a hyper server on loopback, each on a thread of its own. Bare and layer are
//! measured in turns within one run.

#[path = "support/rmcp.rs"]
mod rmcp_side;

use std::time::Instant;

use futures::future::join_all;
use http::{HeaderValue, StatusCode};
use mcp_session_recovery::SessionRecoveryLayer;
use rmcp_side::*;
use testing::benching::*;
use tokio::runtime::Runtime;
use tower::Layer;

const HTTP: [(&str, bool); 2] = [("HTTP/1", false), ("HTTP/2", true)];

fn main() {
    // A storm over HTTP/1 takes a connection for each call, and each of those two files.
    let _ = rlimit::increase_nofile_limit(65_536);
    let parts: [(&str, fn()); 4] = [
        ("calls", calls),
        ("recovery", recovery),
        ("storm", storm),
        ("rmcp", against_rmcp),
    ];
    for (name, part) in parts {
        if wanted(name) {
            part();
        }
    }
}

/// A bare caller and one through the layer, each with a session.
struct Side<B, L> {
    runtime: Runtime,
    uri: String,
    bare: B,
    layered: L,
    ids: [HeaderValue; 2],
    stats: std::sync::Arc<Stats>,
}

fn sides(http2: bool, streams: bool) -> Side<impl Caller, impl Caller> {
    let (uri, stats) = serve(|_| unreachable!("no streams are asked for"));
    stats
        .streams
        .store(streams, std::sync::atomic::Ordering::Relaxed);
    let runtime = runtime();
    let mut bare = hyper_client(http2);
    let mut layered = SessionRecoveryLayer::new().layer(hyper_client(http2));
    let ids = runtime.block_on(async {
        [
            handshake(&mut bare, &uri).await,
            handshake(&mut layered, &uri).await,
        ]
    });
    Side {
        runtime,
        uri,
        bare,
        layered,
        ids,
        stats,
    }
}

/// Tool calls, one at a time and 64 at a time.
fn calls() {
    head(
        "Tool calls (aim: 97 % of bare)",
        &[
            "",
            "answer",
            "at a time",
            "bare calls/s",
            "layer calls/s",
            "of bare",
            "p50 bare / layer",
            "p99 bare / layer",
        ],
    );
    for (http, http2) in HTTP {
        for (answer, streams) in [("JSON", false), ("event stream", true)] {
            for at_a_time in [1, 64] {
                let side = sides(http2, streams);
                let each = if at_a_time == 1 { 200 } else { 16 };
                let mut latencies = [Vec::new(), Vec::new()];
                let pair = in_turns(60, |layer| {
                    let took = &mut latencies[usize::from(layer)];
                    let (id, uri) = (&side.ids[usize::from(layer)], &side.uri);
                    let work = async {
                        match layer {
                            true => rounds(&side.layered, uri, id, at_a_time, each, took).await,
                            false => rounds(&side.bare, uri, id, at_a_time, each, took).await,
                        }
                    };
                    seconds(|| side.runtime.block_on(work)) / (each * at_a_time) as f64
                });
                let [mut bare, mut layer] = latencies;
                let mut at = |q| {
                    let [bare, layer] = [&mut bare, &mut layer].map(|it| quantile(it, q) * 1e6);
                    format!("{bare:.0} / {layer:.0} µs")
                };
                row([
                    http.to_owned(),
                    answer.to_owned(),
                    at_a_time.to_string(),
                    format!("{:.0}", 1.0 / pair.bare),
                    format!("{:.0}", 1.0 / pair.layer),
                    format!("{:.1} %", 100.0 / pair.ratio),
                    at(0.5),
                    at(0.99),
                ]);
            }
        }
    }
}

async fn rounds(
    caller: &impl Caller,
    uri: &str,
    id: &HeaderValue,
    at_a_time: usize,
    each: usize,
    latencies: &mut Vec<f64>,
) {
    let one = || async {
        let mut caller = caller.clone();
        let mut took = Vec::with_capacity(each);
        for _ in 0..each {
            let started = Instant::now();
            assert_eq!(call(&mut caller, uri, id).await, StatusCode::OK);
            took.push(started.elapsed().as_secs_f64());
        }
        took
    };
    if at_a_time == 1 {
        return latencies.extend(one().await);
    }
    let all = join_all((0..at_a_time).map(|_| one())).await;
    latencies.extend(all.into_iter().flatten());
}

/// One recovered call against the four round trips that it takes at least.
fn recovery() {
    head(
        "One recovery (aim: at most 1.15 of bare)",
        &[
            "",
            "answers",
            "four bare round trips",
            "recovered call",
            "ratio",
            "requests",
            "new connections",
        ],
    );
    for (http, http2) in HTTP {
        for (answers, streams) in [("JSON", false), ("event streams", true)] {
            let mut side = sides(http2, streams);
            let (mut requests, mut connections) = (0, 0);
            let mut recoveries = 0;
            let mut dead = side.ids[0].clone();
            let pair = in_turns(400, |layer| {
                side.stats.kill();
                side.stats.take();
                let uri = &side.uri;
                let took = seconds(|| {
                    side.runtime.block_on(async {
                        if layer {
                            let status = call(&mut side.layered, uri, &side.ids[1]).await;
                            assert_eq!(status, StatusCode::OK);
                        } else {
                            dead = recover_by_hand(&mut side.bare, uri, &dead, 1).await;
                        }
                    });
                });
                if layer {
                    let (sent, handshakes, opened) = side.stats.take();
                    assert_eq!(handshakes, 1);
                    requests += sent;
                    connections += opened;
                    recoveries += 1;
                }
                took
            });
            row([
                http.to_owned(),
                answers.to_owned(),
                format!("{:.0} µs", pair.bare * 1e6),
                format!("{:.0} µs", pair.layer * 1e6),
                format!("{:.2}", pair.ratio),
                format!("{:.1}", requests as f64 / recoveries as f64),
                format!("{:.2}", connections as f64 / recoveries as f64),
            ]);
        }
    }
}

/// The least that can be done: every 404, one handshake, every call again. Gives the new id.
async fn recover_by_hand(
    caller: &mut impl Caller,
    uri: &str,
    dead: &HeaderValue,
    calls: usize,
) -> HeaderValue {
    at_once(caller, uri, dead, calls, StatusCode::NOT_FOUND).await;
    let id = handshake(caller, uri).await;
    at_once(caller, uri, &id, calls, StatusCode::OK).await;
    id
}

/// So many calls, all sent before the first is answered.
async fn at_once(
    caller: &mut impl Caller,
    uri: &str,
    id: &HeaderValue,
    calls: usize,
    expected: StatusCode,
) {
    let sent: Vec<_> = (0..calls).map(|_| call(caller, uri, id)).collect();
    for status in join_all(sent).await {
        assert_eq!(status, expected);
    }
}

/// Many calls that find the session dead at once.
fn storm() {
    head(
        "A storm (aim: at most 1.2 of bare, one handshake)",
        &[
            "",
            "calls",
            "bare",
            "layer",
            "ratio",
            "layer, per call",
            "handshakes",
            "requests",
        ],
    );
    for (http, http2) in HTTP {
        for calls in [1, 64, 1024, 8192] {
            // A connection for each call: more than a machine has ports for in a few rounds.
            if !http2 && calls > 1024 {
                continue;
            }
            let mut side = sides(http2, true);
            let mut dead = side.ids[0].clone();
            let mut seen = Default::default();
            let count = if calls == 1 {
                200
            } else {
                (20_000 / calls).clamp(11, 60)
            };
            let pair = in_turns(count, |layer| {
                side.stats.kill();
                side.stats.take();
                let uri = &side.uri;
                let took = seconds(|| {
                    side.runtime.block_on(async {
                        if layer {
                            at_once(&mut side.layered, uri, &side.ids[1], calls, StatusCode::OK)
                                .await;
                        } else {
                            dead = recover_by_hand(&mut side.bare, uri, &dead, calls).await;
                        }
                    });
                });
                if layer {
                    let (requests, handshakes, _) = side.stats.take();
                    assert_eq!((handshakes, requests), (1, 2 * calls + 2));
                    seen = (handshakes, requests);
                }
                took
            });
            row([
                http.to_owned(),
                calls.to_string(),
                format!("{:.2} ms", pair.bare * 1e3),
                format!("{:.2} ms", pair.layer * 1e3),
                format!("{:.2}", pair.ratio),
                format!("{:.1} µs", pair.layer * 1e6 / calls as f64),
                seen.0.to_string(),
                seen.1.to_string(),
            ]);
        }
    }
}

/// rmcp's own recovery ("bare") against the layer's below an rmcp client: the same server, the same
/// HTTP client, the same parsing.
fn against_rmcp() {
    use rmcp::model::CallToolRequestParams;
    use std::sync::atomic::Ordering::Relaxed;

    head(
        "Against rmcp's own recovery (aim: no more requests, and ahead in time)",
        &[
            "calls in flight",
            "rmcp",
            "layer",
            "ratio",
            "failed calls, rmcp / layer",
            "requests, rmcp / layer",
        ],
    );
    for in_flight in [1, 64] {
        let runtime = runtime();
        let servers = [RmcpServer::start(), RmcpServer::start()];
        let clients = runtime.block_on(async {
            let layered = SessionRecoveryLayer::new().layer(hyper_client(false));
            [
                rmcp_client(&servers[0].url, hyper_client(false), true).await,
                rmcp_client(&servers[1].url, layered, false).await,
            ]
        });
        let (mut requests, mut failed, mut turns) = ([0, 0], [0, 0], [0, 0]);
        let pair = in_turns(40, |layer| {
            let which = usize::from(layer);
            let (server, client) = (&servers[which], &clients[which]);
            // What the last turn left behind comes to rest.
            let rest = || async { tokio::time::sleep(std::time::Duration::from_millis(30)).await };
            runtime.block_on(async {
                rest().await;
                server.forget_sessions().await;
            });
            server.requests.store(0, Relaxed);
            let took = seconds(|| {
                runtime.block_on(async {
                    let call = || client.call_tool(CallToolRequestParams::new("echo"));
                    for answer in join_all((0..in_flight).map(|_| call())).await {
                        failed[which] += usize::from(answer.is_err());
                    }
                });
            });
            runtime.block_on(rest());
            requests[which] += server.requests.load(Relaxed);
            turns[which] += 1;
            took
        });
        let each = |which: usize| requests[which] as f64 / turns[which] as f64;
        row([
            in_flight.to_string(),
            format!("{:.2} ms", pair.bare * 1e3),
            format!("{:.2} ms", pair.layer * 1e3),
            format!("{:.2}", pair.ratio),
            format!("{} / {}", failed[0], failed[1]),
            format!("{:.1} / {:.1}", each(0), each(1)),
        ]);
    }
}
