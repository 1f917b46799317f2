//! What really happened, and whether it should have: the invariants.

use std::{
    cell::Cell,
    collections::{HashMap, HashSet},
};

use http::{HeaderMap, HeaderValue};
use tokio::time::{Duration, Instant};

use crate::{
    plan::{Action, Settings},
    world::BUSY,
};

/// What the layer must never do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub invariant: &'static str,
    pub what: String,
    pub at: Duration,
}

/// Goes with each request of a caller, in its extensions, and so with what the layer makes of it.
#[derive(Clone, Debug)]
pub struct Tag {
    pub number: u64,
    pub principal: usize,
    pub host: usize,
    pub kind: Kind,
    /// The caller's session; none for a stranger.
    pub lineage: Option<usize>,
    /// The id that the caller sent.
    pub presented: Option<HeaderValue>,
    /// All headers that the caller sent.
    pub headers: HeaderMap,
    /// The calls in it.
    pub keys: Vec<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Initialize,
    Initialized,
    Resume,
    Act(Action),
}

impl Kind {
    pub fn is_get(self) -> bool {
        matches!(self, Self::Resume | Self::Act(Action::Listen))
    }
}

/// A session of a caller, through all its sessions on the server.
pub struct Lineage {
    pub host: usize,
    pub principal: usize,
    pub callers_id: Option<HeaderValue>,
    /// The layer has it on record: callers' ids are translated, and expiry is recovered.
    pub is_known: bool,
    /// Its `initialize` was none of the layer's business, which has not heard whose the id is (rules A1,
    /// A5).
    pub is_untouched: bool,
    /// Its caller deletes it.
    pub is_ending: bool,
    /// Its caller has deleted it, and the server said yes.
    pub is_deleted: bool,
    /// The layer was told to forget it.
    pub is_forgotten: bool,
    /// Its caller has gone on to another.
    pub is_abandoned: bool,
    /// A stranger, or who had its id before, has had it recovered, with credentials of its own: without a
    /// principal, that is whose it is from then on (rules D8, E5). Or somebody has ended it whom the layer
    /// has forgotten.
    pub is_taken: bool,
    /// The session on the server that requests were last sent in, by serial.
    pub current: Option<usize>,
    pub superseded: HashMap<usize, Instant>,
    pub attempts: Attempts,
}

#[derive(Default)]
pub struct Attempts {
    pub under_way: usize,
    pub useless: u32,
    pub last: Option<Instant>,
    /// The last one was denied for these credentials.
    pub denied: Option<Option<HeaderValue>>,
}

/// A session on a server, dead or alive.
pub struct Upstream {
    pub host: usize,
    pub lineage: Option<usize>,
    pub id: Option<HeaderValue>,
    pub by_layer: bool,
    /// When its sender got the head of the answer to `initialize`, of all such heads.
    pub delivered: Option<u64>,
    pub is_initialized: bool,
    /// The layer has heard that it is.
    pub is_accepted: bool,
    /// Its caller's requests have come there.
    pub is_published: bool,
    pub made_with: HeaderMap,
    /// The server has said, in a way that leaves no doubt, that it does not know it.
    pub is_denied: bool,
    /// Since when, at the latest.
    pub denied_since: Option<Instant>,
    /// The layer never got to know it, or could not end it for the server's sake.
    pub is_excused: bool,
    /// The state could not be restored for the server's sake, or is somebody else's.
    pub is_disturbed: bool,
}

#[derive(Default)]
pub struct Call {
    /// The session that it was last sent in.
    pub sent_in: Option<usize>,
    pub executed: u32,
    /// The session it was executed in.
    pub executed_in: Option<usize>,
    /// The server said that it was not executed, although it was; or else lied about it.
    pub is_lied_about: bool,
    pub is_yielded: bool,
    /// A stream that should have brought the answer ended without.
    pub stream_ended: bool,
    pub answers: u32,
    pub losses: u32,
}

/// What the servers did with a caller's request.
#[derive(Default)]
pub struct Held {
    pub time: Duration,
    pub since: Vec<Instant>,
    pub arrivals: u64,
    /// Of the caller's own request.
    pub sendings: u64,
    /// The answer that would have it sent again broke off.
    pub is_broken: bool,
    /// The session that it came to first with its `Last-Event-ID`.
    pub resumed_in: Option<Option<HeaderValue>>,
}

pub struct Account {
    settings: Settings,
    start: Instant,
    pub violation: Option<Violation>,
    pub lineages: Vec<Lineage>,
    /// The credentials with which a handshake of the layer's was denied.
    pub denied_handshakes: HashSet<HeaderValue>,
    pub upstreams: Vec<Upstream>,
    pub calls: HashMap<u64, Call>,
    pub held: HashMap<u64, Held>,
    /// Until when the service below the layer may not be ready at once.
    pub busy_until: Instant,
    pub lied: HashSet<u64>,
    /// Requests whose callers did not poll for a while.
    pub unpolled: HashSet<u64>,
    /// Records that may have been kept although their callers have deleted them.
    pub uncertain: usize,
    /// Requests whose session somebody else was in already, which nobody could know.
    pub misled: HashSet<u64>,
    pub last_tag: u64,
    pub last_key: u64,
    /// The session in which a request has just been answered.
    pub alive: Option<usize>,
    deliveries: u64,
    pub counts: Counts,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub requests: u64,
    pub succeeded: u64,
    pub arrivals: u64,
    pub handshakes: u64,
    pub recovered: u64,
    pub executed: u64,
    pub lost: u64,
    pub alive: u64,
    pub state_checked: u64,
}

thread_local! {
    /// Whether what happens is told as it does.
    pub static TELLS: Cell<bool> = const { Cell::new(false) };
}

impl Account {
    /// Tells what happens, if it is to be told.
    pub fn tell(&self, what: impl FnOnce() -> String) {
        if TELLS.get() && self.violation.is_none() {
            println!("  {:>9.3}  {}", self.start.elapsed().as_secs_f64(), what());
        }
    }

    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            start: Instant::now(),
            violation: None,
            lineages: Vec::new(),
            denied_handshakes: HashSet::new(),
            upstreams: Vec::new(),
            calls: HashMap::new(),
            held: HashMap::new(),
            busy_until: Instant::now(),
            lied: HashSet::new(),
            unpolled: HashSet::new(),
            uncertain: 0,
            misled: HashSet::new(),
            last_tag: 0,
            last_key: 0,
            alive: None,
            deliveries: 0,
            counts: Counts::default(),
        }
    }

    /// The first thing that goes wrong counts: the rest may follow from it.
    pub fn violate(&mut self, invariant: &'static str, what: impl Into<String>) {
        if self.violation.is_none() {
            let at = self.start.elapsed();
            let what = what.into();
            self.tell(|| format!("!!! {invariant}: {what}"));
            self.violation = Some(Violation {
                invariant,
                what,
                at,
            });
        }
    }

    pub fn check(&mut self, holds: bool, invariant: &'static str, what: impl FnOnce() -> String) {
        if !holds {
            self.violate(invariant, what());
        }
    }

    pub fn next_tag(&mut self) -> u64 {
        self.last_tag += 1;
        self.last_tag
    }

    pub fn next_key(&mut self) -> u64 {
        self.last_key += 1;
        self.calls.insert(self.last_key, Call::default());
        self.last_key
    }

    pub fn call(&mut self, key: u64) -> &mut Call {
        self.calls.entry(key).or_default()
    }

    // What servers do.

    /// A server executes a call.
    pub fn executed(&mut self, key: u64, serial: Option<usize>) {
        self.counts.executed += 1;
        let call = self.call(key);
        call.executed += 1;
        call.executed_in = serial;
        let holds = call.executed <= 1 || call.is_lied_about;
        self.check(holds, "at most once", || {
            format!("call {key} was executed twice")
        });
    }

    pub fn yielded(&mut self, keys: &[u64]) {
        keys.iter()
            .for_each(|key| self.call(*key).is_yielded = true);
    }

    pub fn stream_ended(&mut self, keys: &[u64]) {
        keys.iter()
            .for_each(|key| self.call(*key).stream_ended = true);
    }

    /// The layer makes a handshake for a lineage.
    pub fn handshake_begins(
        &mut self,
        number: usize,
        credentials: Option<&HeaderValue>,
        is_constant: bool,
    ) {
        self.counts.handshakes += 1;
        let now = Instant::now();
        let (first, longest) = (self.settings.first_pause, self.settings.longest_pause);
        let lineage = &self.lineages[number];
        let current = lineage.current.unwrap_or_default();
        let is_denied = self.upstreams[current..].iter().any(|upstream| {
            let is_unknown = upstream.delivered.is_none() || upstream.id.is_none();
            upstream.lineage == Some(number) && (upstream.is_denied || is_unknown)
        });
        let attempts = &lineage.attempts;
        let is_alone = attempts.under_way == 0;
        let others = self.lineages.iter().filter(|it| it.host == lineage.host);
        let at_once = 1 + others.map(|it| it.attempts.under_way).sum::<usize>();
        let may_try = attempts
            .denied
            .as_ref()
            .is_some_and(|denied| denied.as_ref() != credentials);
        let pause = match attempts.useless {
            0 => Duration::ZERO,
            useless => first
                .saturating_mul(1 << (useless - 1).min(16))
                .min(longest),
        };
        let since = attempts.last.map_or(Duration::MAX, |last| now - last);
        let useless = attempts.useless;
        self.check(
            is_denied || is_constant,
            "a live session is never replaced",
            || {
                format!(
                    "handshake for session {number}, whose server session {current} was not denied"
                )
            },
        );
        self.check(is_alone, "one handshake", || {
            format!("a second one at a time for session {number}")
        });
        let most = self.settings.max_handshakes;
        self.check(at_once <= most, "no more at once than are allowed", || {
            format!("{at_once} handshakes at a time with one server")
        });
        let may_try = may_try || is_constant && !self.settings.has_principal;
        self.check(
            may_try || since >= pause,
            "no more than the pauses allow",
            || {
                format!(
                    "session {number}: {since:?} after the last of {useless} attempts without use"
                )
            },
        );
        let attempts = &mut self.lineages[number].attempts;
        attempts.under_way += 1;
        attempts.useless += 1;
        attempts.last = Some(now);
        attempts.denied = None;
    }

    /// The head of an answer to `initialize` is there.
    pub fn delivered(&mut self, serial: usize) {
        self.deliveries += 1;
        let host = self.upstreams[serial].host;
        if let Some(id) = self.upstreams[serial].id.clone() {
            // For all that its sender can know, whoever had the id has lost its session.
            for other in &mut self.upstreams {
                if other.host == host && other.id.as_ref() == Some(&id) {
                    other.is_denied = true;
                    other.denied_since.get_or_insert_with(Instant::now);
                }
            }
            self.upstreams[serial].is_denied = false;
        }
        self.upstreams[serial].delivered = Some(self.deliveries);
    }

    /// The server's answer, which its sender has, proves that a session lives.
    pub fn proves_life(&mut self, serial: usize) {
        let upstream = &self.upstreams[serial];
        let Some(number) = upstream.lineage else {
            return;
        };
        let later = &self.upstreams[serial + 1..];
        if !later.iter().any(|it| it.lineage == Some(number)) {
            self.lineages[number].attempts.useless = 0;
        }
    }

    /// The same for whoever goes by an id that the server gives to all: in whose session it was answered
    /// cannot be told.
    pub fn proves_life_of(&mut self, tag: &Tag) {
        let is_shared = !self.settings.has_principal;
        for lineage in &mut self.lineages {
            let is_senders = lineage.callers_id.is_some()
                && lineage.callers_id == tag.presented
                && lineage.host == tag.host
                && (is_shared || lineage.principal == tag.principal);
            if is_senders {
                lineage.attempts.useless = 0;
            }
        }
    }

    /// The layer's `notifications/initialized` for a session without an id was accepted.
    pub fn accepted(&mut self, tag: &Tag) {
        let mut all = self.upstreams.iter_mut().rev();
        let is_it =
            |it: &&mut Upstream| it.by_layer && it.id.is_none() && it.lineage == tag.lineage;
        if let Some(upstream) = all.find(is_it) {
            upstream.is_accepted = true;
        }
    }

    pub fn denied(&mut self, serial: usize) {
        self.tell(|| format!("    {serial} is denied"));
        let upstream = &mut self.upstreams[serial];
        upstream.is_denied = true;
        upstream.denied_since.get_or_insert_with(Instant::now);
    }

    /// A request of a caller is sent in a session: it is the current one, or was. Unless the layer has not
    /// heard of it, and goes on in one before that had the same id.
    pub fn sent_in(&mut self, number: usize, serial: usize) {
        if self.upstreams[serial].delivered.is_none() {
            return;
        }
        let lineage = &mut self.lineages[number];
        let current = lineage.current.unwrap_or_default();
        if serial > current || lineage.current.is_none() {
            if lineage.current.is_some() {
                self.counts.recovered += 1;
                for old in current..serial {
                    if self.upstreams[old].lineage == Some(number) {
                        lineage.superseded.entry(old).or_insert_with(Instant::now);
                    }
                }
            }
            lineage.current = Some(serial);
        }
    }

    // What callers see.

    /// A request's head is there, or it failed, or its caller does not wait any longer.
    pub fn waited(&mut self, tag: &Tag, start: Instant, own: Duration) {
        const SLACK: Duration = Duration::from_millis(5);
        let now = Instant::now();
        // Whoever moves on waits for readiness again.
        let own = match start <= self.busy_until {
            true => own + 4 * BUSY,
            false => own,
        };
        self.tell(|| format!("{:?} {} has its head", tag.kind, tag.number));
        let Some(held) = self.held.get(&tag.number) else {
            let holds = now - start <= own + self.settings.recovery_timeout + SLACK;
            let took = now - start;
            return self.check(holds, "every call ends", || {
                format!(
                    "{:?} {} took {took:?} and was never sent",
                    tag.kind, tag.number
                )
            });
        };
        let under_way = held.since.iter().map(|since| now - *since);
        let time = under_way.fold(held.time, |time, more| time + more);
        let bound = time + own + self.settings.recovery_timeout + SLACK;
        let took = now - start;
        self.check(took <= bound, "every call ends", || {
            format!(
                "{:?} {} took {took:?}, of which the servers {time:?}",
                tag.kind, tag.number
            )
        });
    }

    /// A caller gives up a call that waits for answers.
    pub fn hangs(&mut self, tag: &Tag) {
        let Some(lineage) = tag.lineage.map(|number| &self.lineages[number]) else {
            return;
        };
        if !lineage.is_known || tag.keys.is_empty() || self.lied.contains(&tag.number) {
            return;
        }
        let now = Instant::now();
        let patience = self.settings.orphan_timeout + Duration::from_millis(10);
        for key in &tag.keys {
            let Some(serial) = self.calls[key].sent_in else {
                continue;
            };
            if let Some(superseded) = lineage.superseded.get(&serial) {
                let since = now - *superseded;
                if since > patience {
                    let what = format!(
                        "call {key} still waits {since:?} after its server session {serial} was replaced"
                    );
                    return self.violate("nobody waits for what is gone", what);
                }
            }
        }
    }

    pub fn answered(&mut self, key: u64, tag: &Tag) {
        let call = self.call(key);
        call.answers += 1;
        let (answers, losses) = (call.answers, call.losses);
        if !self.lied.contains(&tag.number) {
            self.check(
                answers <= 1 && losses == 0,
                "a lost answer is told once, and none that was not",
                || format!("call {key} has {answers} answers and {losses} errors"),
            );
        }
    }

    /// The layer says that an answer is lost.
    pub fn told_lost(&mut self, key: u64, tag: &Tag, reason: &str, resumes: bool) {
        self.counts.lost += 1;
        let call = self.call(key);
        call.losses += 1;
        let (answers, losses) = (call.answers, call.losses);
        let (yielded, ended, executed_in) = (call.is_yielded, call.stream_ended, call.executed_in);
        let sent_in = call.sent_in;
        if self.lied.contains(&tag.number) {
            return;
        }
        const LOST: &str = "a lost answer is told once, and none that was not";
        self.check(answers == 0 && losses == 1, LOST, || {
            format!("call {key} has {answers} answers and {losses} errors")
        });
        self.check(!yielded || resumes, LOST, || {
            format!("the answer to call {key} came, and is said to be lost")
        });
        match reason {
            "stream_ended" => self.check(ended, LOST, || format!("call {key}: no stream ended")),
            "session_expired" => {
                let number = tag.lineage.unwrap_or_default();
                let is_current = executed_in.is_some()
                    && self.lineages[number].current == executed_in
                    && executed_in.is_some_and(|serial| !self.upstreams[serial].is_denied);
                self.check(!is_current, LOST, || {
                    format!("call {key}: its session has not expired")
                });
                // On its own stream it is given time to come.
                let denied = sent_in.and_then(|serial| self.upstreams[serial].denied_since);
                let since = denied.map_or(Duration::MAX, |denied| denied.elapsed());
                let has_had_time = since >= self.settings.orphan_timeout;
                self.check(resumes || tag.kind.is_get() || has_had_time, LOST, || {
                    format!("call {key}: its session has expired {since:?} ago")
                });
            }
            _ => self.violate(LOST, format!("call {key}: for reason {reason}")),
        }
    }

    /// All else that must hold when nothing is left to do. `is_live` says whether a server knows a
    /// session.
    pub fn close(&mut self, is_live: impl Fn(&Upstream, usize) -> bool) {
        for serial in 0..self.upstreams.len() {
            let upstream = &self.upstreams[serial];
            if !upstream.by_layer || !is_live(upstream, serial) {
                continue;
            }
            let lineage = upstream.lineage.map(|number| &self.lineages[number]);
            let is_anyones = lineage.is_some_and(|lineage| {
                // Perhaps none of its caller's requests has come there yet.
                let is_last = upstream.is_initialized
                    && !self.upstreams[serial + 1..]
                        .iter()
                        .any(|it| it.lineage == upstream.lineage && it.is_initialized);
                !lineage.is_deleted
                    && (lineage.is_known || lineage.is_abandoned)
                    && (lineage.current == Some(serial) || is_last)
            });
            let is_forgotten = lineage.is_some_and(|lineage| {
                lineage.is_forgotten || !lineage.is_known && !lineage.is_deleted
            });
            let is_taken = lineage.is_some_and(|lineage| lineage.is_taken);
            // Of a recovery that failed, with the id that the session goes by: it is not ended, since
            // a record names it (rule I3).
            let is_named = self.upstreams[..serial]
                .iter()
                .any(|it| it.lineage == upstream.lineage && it.id == upstream.id);
            if !is_taken
                && !is_named
                && !is_anyones
                && !is_forgotten
                && !upstream.is_denied
                && !upstream.is_excused
            {
                let lineage = upstream.lineage;
                self.violate(
                    "no session is left",
                    format!("server session {serial} of {lineage:?}"),
                );
            }
        }
    }
}
