//! The layer and an oracle, given the same conversations: rules G1 to G6, G9, C4.
//!
//! The oracle is a plain reader of whole event streams and a plain account of which request was
//! answered where. Conversations are random, cut into random chunks, with losses at random places;
//! what the caller reads, how its streams end, which errors it gets, which ids are remembered and
//! what is executed must agree. Some requests are accepted with 202, and answered on the listening stream
//! or never. `DIFFERENTIAL_SEEDS=100000` runs as many conversations, and
//! `DIFFERENTIAL_FIRST` tells which one is the first.

mod losing;
mod oracle;
mod serving;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use mcp_session_recovery::{Outcome, SessionRecoveryLayer};
use serde_json::{Value, json};
use testing::streams::*;
use testing::*;
use tokio::time::advance;

use self::oracle::*;

/// What is accepted with 202.
const LATER: &str = "tasks/later";
const IDS: [&str; 6] = ["0", "1", "0/0", "0/1", "\u{e4}", "x y"];

/// A little generator of numbers.
struct Numbers(u64);

impl Numbers {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % below
    }

    fn one_of<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    fn is(&mut self, one_in: usize) -> bool {
        self.below(one_in) == 0
    }
}

struct Conversation {
    numbers: Numbers,
    scene: Scene,
    calls: Fed,
    gets: Fed,
    epoch: usize,
    next_request: u64,
    next_listening: usize,
    executed: usize,
    /// How many requests the server has accepted.
    later: Arc<AtomicUsize>,
    accepted: Vec<Accepted>,
    origins: Vec<Call>,
    /// Each stream that told ids, in the order of its first one, and the ids with how many answers
    /// came before.
    log: Vec<(Origin, Vec<(String, usize)>)>,
    open: Vec<Open>,
}

impl Conversation {
    async fn new(seed: u64) -> Self {
        let scene = scene(SessionRecoveryLayer::new()).await;
        let (calls, gets) = (Fed::default(), feed_all(&scene.server, "GET"));
        let (feeding, living) = (calls.clone(), scene.server.clone());
        scene.server.on(move |seen| {
            let is_call = seen.what() == "tools/call" || seen.message().is_array();
            (is_call && is_live(&living, seen)).then(|| feeding.add())
        });
        let later = Arc::new(AtomicUsize::new(0));
        let (living, count) = (scene.server.clone(), later.clone());
        scene.server.on(move |seen| {
            (seen.what() == LATER && is_live(&living, seen)).then(|| {
                count.fetch_add(1, Ordering::Relaxed);
                reply(202, None, "")
            })
        });
        Self {
            numbers: Numbers::new(seed),
            scene,
            calls,
            gets,
            epoch: 0,
            next_request: 0,
            next_listening: 0,
            executed: 0,
            later,
            accepted: Vec::new(),
            origins: Vec::new(),
            log: Vec::new(),
            open: Vec::new(),
        }
    }

    /// What the events of the last chunk come to.
    fn account(&mut self, at: usize) {
        let (origins, log) = (&mut self.origins, &mut self.log);
        let one = &mut self.open[at];
        let plain = one.plain();
        let events = plain.events[one.read..].to_vec();
        one.read = plain.events.len();
        let Some(origin) = one.origin else { return };
        let mut remember = |id: &Option<String>, answered| {
            if let Some(id) = id.as_ref().filter(|id| !id.is_empty()) {
                let known = log.iter().position(|(it, _)| *it == origin);
                let place = known.unwrap_or_else(|| {
                    log.push((origin, Vec::new()));
                    log.len() - 1
                });
                log[place].1.push((id.clone(), answered));
            }
        };
        match origin {
            Origin::Listening(..) => {
                for event in &events {
                    remember(&event.id, 0);
                    let answered = event.message.as_deref().map(responses).unwrap_or_default();
                    let accepted = self.accepted.iter_mut();
                    accepted
                        .filter(|it| answered.contains(&it.request))
                        .for_each(|it| it.is_over = true);
                }
            }
            Origin::Call(call) => {
                let call = &mut origins[call];
                one.is_done |= call.waiting().is_empty();
                for event in events.iter().filter(|_| !one.is_done) {
                    event.message.iter().for_each(|message| call.read(message));
                    if !call.waiting().is_empty() {
                        remember(&event.id, call.answered.len());
                    }
                }
                one.is_done |= call.waiting().is_empty();
            }
        }
    }

    /// Compares what the caller has read with what it should have.
    async fn compare(&mut self) {
        assert_eq!(self.calls.count(), self.executed, "executions");
        let accepted = self.later.load(Ordering::Relaxed);
        assert_eq!(accepted, self.accepted.len(), "executions");
        for one in &mut self.open {
            one.stream.now().await;
            let (got, expected) = (one.stream.bytes(), one.expected());
            let case = format!(
                "{:?} {:?}\n{:?}\n{:?}",
                one.origin,
                one.ends,
                String::from_utf8_lossy(&got[..got.len().min(2000)]),
                String::from_utf8_lossy(&expected[..expected.len().min(2000)]),
            );
            match &one.ends {
                None => assert!(one.stream.is_open() && got == expected, "{case}"),
                Some(Ends::Clean) => {
                    assert!(one.stream.ended_cleanly() && got == expected, "{case}");
                }
                Some(Ends::Broken) => {
                    let is_broken = matches!(one.stream.end, Some(Err(_)));
                    assert!(is_broken && got == expected, "{case}");
                }
                Some(Ends::Lost(requests, reason)) => {
                    assert!(one.stream.ended_cleanly(), "{case}");
                    assert!(got.starts_with(&expected), "{case}");
                    let read = Plain::read(&got, &one.resumed);
                    let sent = Plain::read(&expected, &one.resumed);
                    let mut messages = sent.messages();
                    messages.extend(requests.iter().map(|id| lost_(*id, reason)));
                    assert_eq!(read.messages(), messages, "{case}");
                    assert_eq!(read.last_id, sent.last_id, "{case}");
                    assert!(!read.is_in_event, "{case}");
                }
            }
        }
    }

    async fn run(&mut self) {
        for _ in 0..10 + self.numbers.below(60) {
            match self.numbers.below(24) {
                20 => self.accept().await,
                21..24 => self.answer_accepted(),
                0 | 1 => self.call().await,
                2 if !self.is_listening() => self.listen().await,
                3 => {
                    let by = self.numbers.below(4);
                    self.lose(by).await;
                }
                4 => self.orphan().await,
                5 => self.resume("").await,
                6 | 7 => {
                    let id = self.numbers.one_of(&IDS);
                    self.resume(id).await;
                }
                _ => {
                    let open = self.open.iter().enumerate();
                    let open = open.filter(|(_, one)| one.ends.is_none());
                    let open: Vec<_> = open.map(|(at, _)| at).collect();
                    if !open.is_empty() {
                        let at = self.numbers.one_of(&open);
                        self.feed(at).await;
                    }
                }
            }
        }
        self.compare().await;
        // What is remembered, in the session that was, and in the next.
        for loses in [false, true] {
            if loses {
                self.lose(2).await;
            }
            for id in IDS {
                for at in 0..self.open.len() {
                    if self.open[at].ends.is_none() {
                        let (feeds, number) = self.open[at].feed;
                        self.fed(feeds).end(number);
                        settle().await;
                        self.note_end(at, Ends::Clean);
                    }
                }
                self.resume(id).await;
            }
            self.compare().await;
        }
    }
}

/// It as the layer writes it.
fn lost_event(id: u64) -> String {
    let error = lost_(id, "session_expired")["error"].clone();
    format!("event: message\ndata: {{\"jsonrpc\":\"2.0\",\"id\":{id},\"error\":{error}}}\n\n")
}

/// The error of rule G7.
fn lost_(id: u64, reason: &str) -> Value {
    lost(json!(id), reason)
}

fn from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn g1_g3_g4_g5_g6_g9_the_layer_and_the_oracle_agree() {
    let first = from_env("DIFFERENTIAL_FIRST").unwrap_or(0);
    let seeds = from_env("DIFFERENTIAL_SEEDS").unwrap_or(150);
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().start_paused(true);
    for seed in first..first + seeds {
        let conversation = async {
            // The seed of a conversation that panics is the last one told.
            let told = Told(seed);
            Conversation::new(seed).await.run().await;
            drop(told);
        };
        runtime.build().expect("a runtime").block_on(conversation);
    }
}

/// Tells the seed of a conversation that did not end well.
struct Told(u64);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the conversation is DIFFERENTIAL_FIRST={}", self.0);
        }
    }
}
