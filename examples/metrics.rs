//! Counts recoveries with the `metrics` facade: by what came of each (`on_recovery`), and by what
//! became of the requests that met a dead session (the `Recovery` in the response's extensions).
//!
//! ```console
//! $ cargo run --example metrics --features metrics
//! ```
//!
//! Any exporter for `metrics` will do; this one prints the numbers at the end.

mod support;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use futures::future::try_join_all;
use http::Response;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use mcp_session_recovery::{Failure, Outcome, Recovery, RecoveryEvent, SessionRecoveryLayer};
use metrics::{
    Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
    counter, histogram,
};
use serde_json::json;
use tower::ServiceBuilder;

use support::{BoxError, Caller, Server};

/// Called once for each recovery. The labels are few and hold no secret.
fn count_recovery(event: &RecoveryEvent) {
    let outcome = match event.result() {
        Ok(()) => "recovered",
        Err(Failure::Denied(_)) => "denied",
        Err(Failure::TimedOut) => "timed out",
        Err(_) => "failed",
    };
    let host = event.host().to_owned();
    counter!("mcp_recoveries", "host" => host.clone(), "outcome" => outcome).increment(1);
    histogram!("mcp_recovery_seconds", "host" => host).record(event.elapsed());
    // A session without its state is something to look into.
    let not_restored = event.not_restored().len() as u64;
    counter!("mcp_state_not_restored").increment(not_restored);
}

/// Called for each response that a caller gets.
fn count_response<B>(response: Response<B>) -> Response<B> {
    let recovery = response.extensions().get().map(Recovery::outcome);
    let outcome = match recovery {
        None => "undisturbed",
        Some(Outcome::Replayed) => "replayed",
        Some(Outcome::Waited) => "waited",
        Some(Outcome::Failed(_)) => "failed",
        Some(_) => "other",
    };
    counter!("mcp_responses", "outcome" => outcome).increment(1);
    response
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let numbers = Numbers::default();
    metrics::set_global_recorder(numbers.clone())?;

    let server = Server::start().await?;
    let client = ServiceBuilder::new()
        .map_response(count_response)
        .layer(SessionRecoveryLayer::new().on_recovery(count_recovery))
        .service(Client::builder(TokioExecutor::new()).build_http());

    let caller = Caller::connect(client, server.url()).await?;
    for _ in 0..3 {
        server.forget_sessions().await;
        // Ten calls at once find the session dead; there is one recovery.
        try_join_all((0..10).map(|_| {
            let caller = caller.clone();
            async move { caller.call("count", json!({})).await }
        }))
        .await?;
    }
    caller.leave().await?;
    numbers.print();
    Ok(())
}

/// The simplest of all exporters.
#[derive(Clone, Default)]
struct Numbers {
    counters: Arc<Mutex<BTreeMap<String, Arc<AtomicU64>>>>,
    histograms: Arc<Mutex<BTreeMap<String, Arc<Values>>>>,
}

#[derive(Default)]
struct Values(Mutex<Vec<f64>>);

impl HistogramFn for Values {
    fn record(&self, value: f64) {
        self.0.lock().unwrap().push(value);
    }
}

impl Numbers {
    fn print(&self) {
        for (name, count) in &*self.counters.lock().unwrap() {
            println!("{name:<60} {}", count.load(Ordering::Relaxed));
        }
        for (name, values) in &*self.histograms.lock().unwrap() {
            let values = values.0.lock().unwrap();
            let largest = values.iter().fold(0.0_f64, |a, b| a.max(*b));
            println!("{name:<60} {} values, {largest:.4} at most", values.len());
        }
    }
}

impl Recorder for Numbers {
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let mut counters = self.counters.lock().unwrap();
        Counter::from_arc(counters.entry(name(key)).or_default().clone())
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        let mut histograms = self.histograms.lock().unwrap();
        Histogram::from_arc(histograms.entry(name(key)).or_default().clone())
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
}

fn name(key: &Key) -> String {
    let labels: Vec<_> = key
        .labels()
        .map(|label| format!("{}={:?}", label.key(), label.value()))
        .collect();
    format!("{}{{{}}}", key.name(), labels.join(","))
}
