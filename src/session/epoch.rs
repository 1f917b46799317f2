//! One upstream session in the life of a caller's session.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::{Extensions, HeaderMap, HeaderValue, Response, Uri, Version};
use tokio::sync::Notify;

#[cfg(feature = "store")]
use crate::sync::atomic::AtomicU64;

use super::{Affinity, session::headers_bytes};
use crate::{
    mcp::{InitializeResult, ListChanged, SESSION_ID, each_session_header},
    sync::atomic::{AtomicBool, AtomicU8, Ordering},
};

/// How many versions of earlier epochs are known: a server could name another each time.
const MAX_VERSIONS: usize = 8;

/// One upstream session. Epoch 0 is the caller's own handshake, each recovery makes the next.
pub(crate) struct Epoch {
    number: u64,
    /// That in the store, which others go by, too. They may have made fewer epochs than this process.
    #[cfg(feature = "store")]
    stored: AtomicU64,
    id: Option<HeaderValue>,
    /// Whether a caller's requests differ from this epoch's (rule C3).
    translates: bool,
    /// Known late in epoch 0: it is tapped from the answer as that streams to the caller.
    result: OnceLock<InitializeResult>,
    /// The versions of earlier epochs, that of the first one before all others (rule C1).
    outdated_versions: Vec<HeaderValue>,
    /// What epoch 0 promised the caller (rule H3).
    promised: ListChanged,
    /// Large, and epoch 0 has none.
    handshake: Option<Box<Handshake>>,
    replaced: AtomicBool,
    abandoned: AtomicBool,
    replacement: Arc<Notify>,
    /// Whom the server has given its id since (rule A5).
    reassigned: AtomicU8,
    /// Until an answer shows that it lives, a recovery may have been of no use (rule J4).
    unproven: AtomicU8,
    /// Of the request that first showed that a restored epoch lives: its own credentials are not
    /// known (rules D8, N2).
    #[cfg(feature = "store")]
    shown_by: OnceLock<HeaderMap>,
}

/// It has not.
const NOBODY: u8 = 0;

/// To whom a server has given an epoch's id since. Of what is heard of that, the last of these counts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Reassigned {
    /// A handshake of the very session whose epoch it is.
    OwnHandshake = 1,
    /// Two sessions have it, and nobody knows which of them was given it last.
    OneOfTwo,
    Another,
}

/// Nothing is to be shown, or it has been.
const PROVEN: u8 = 0;
/// A recovery made it.
const RECOVERED: u8 = 1;
/// Another process made it.
#[cfg(feature = "store")]
const RESTORED: u8 = 2;
/// A recovery made it, and what was sent again in it found no session, which need not be the last word.
const DOUBTED: u8 = 3;

/// What a recovery leaves behind in the epoch it made.
pub(crate) struct Handshake {
    /// Of the trigger, as the layer's own requests in this epoch go out: its credentials above all.
    pub(crate) uri: Uri,
    pub(crate) version: Version,
    pub(crate) headers: HeaderMap,
    pub(crate) extensions: Extensions,
    /// The answer to `notifications/initialized` (rule F3).
    pub(crate) accepted: Response<Bytes>,
    pub(crate) affinity: Affinity,
}

impl Handshake {
    fn bytes(&self) -> usize {
        let accepted = headers_bytes(self.accepted.headers()) + self.accepted.body().len();
        let uri = self.uri.path_and_query().map_or(0, |it| it.as_str().len());
        size_of::<Self>() + uri + headers_bytes(&self.headers) + accepted + self.affinity.bytes()
    }
}

/// What is known of an epoch that another process has made.
#[cfg(feature = "store")]
pub(super) struct KnownEpoch {
    pub(super) number: u64,
    pub(super) stored: u64,
    pub(super) id: Option<HeaderValue>,
    pub(super) is_reassigned: bool,
    pub(super) callers_id: HeaderValue,
    pub(super) result: Option<InitializeResult>,
    pub(super) outdated_versions: Vec<HeaderValue>,
    pub(super) promised: ListChanged,
}

impl Epoch {
    /// Epoch 0, which the server calls `id` and the caller `callers_id`.
    pub(crate) fn first(id: HeaderValue, callers_id: &HeaderValue) -> Self {
        Self {
            number: 0,
            #[cfg(feature = "store")]
            stored: AtomicU64::new(0),
            translates: id != callers_id,
            id: Some(id),
            result: OnceLock::new(),
            outdated_versions: Vec::new(),
            promised: ListChanged::default(),
            handshake: None,
            replaced: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
            replacement: Arc::default(),
            reassigned: AtomicU8::new(NOBODY),
            unproven: AtomicU8::new(PROVEN),
            #[cfg(feature = "store")]
            shown_by: OnceLock::new(),
        }
    }

    /// The epoch after this one.
    pub(crate) fn next(
        &self,
        id: Option<HeaderValue>,
        result: InitializeResult,
        handshake: Handshake,
    ) -> Self {
        let mut outdated_versions = self.outdated_versions.clone();
        let own = self.version().cloned();
        let own = own.filter(|version| !outdated_versions.contains(version));
        outdated_versions.extend(own);
        if outdated_versions.len() > MAX_VERSIONS {
            // The first one stays: it is what the caller was told.
            outdated_versions.remove(1);
        }
        let promised = match self.number {
            0 => self
                .result
                .get()
                .map(InitializeResult::list_changed)
                .unwrap_or_default(),
            _ => self.promised,
        };
        Self {
            number: self.next_number(),
            #[cfg(feature = "store")]
            stored: AtomicU64::new(self.stored() + 1),
            id,
            translates: true,
            outdated_versions,
            result: OnceLock::from(result),
            promised,
            handshake: Some(Box::new(handshake)),
            replaced: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
            replacement: Arc::default(),
            reassigned: AtomicU8::new(NOBODY),
            unproven: AtomicU8::new(RECOVERED),
            #[cfg(feature = "store")]
            shown_by: OnceLock::new(),
        }
    }

    /// An epoch that another process has made. It has a `handshake` if a recovery adopts it.
    #[cfg(feature = "store")]
    pub(super) fn restored(known: KnownEpoch, handshake: Option<Handshake>) -> Self {
        Self {
            number: known.number,
            stored: AtomicU64::new(known.stored),
            translates: known.number > 0 || known.id.as_ref() != Some(&known.callers_id),
            id: known.id,
            result: known.result.map(OnceLock::from).unwrap_or_default(),
            outdated_versions: known.outdated_versions,
            promised: known.promised,
            unproven: AtomicU8::new(match handshake {
                Some(_) => RECOVERED,
                None => RESTORED,
            }),
            handshake: handshake.map(Box::new),
            replaced: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
            replacement: Arc::default(),
            reassigned: AtomicU8::new(match known.is_reassigned {
                // The record does not say how that is known.
                true => Reassigned::OneOfTwo as u8,
                false => NOBODY,
            }),
            shown_by: OnceLock::new(),
        }
    }

    /// No process that shares a store has counted further.
    fn next_number(&self) -> u64 {
        let next = self.number + 1;
        #[cfg(feature = "store")]
        let next = next.max(self.stored() + 1);
        next
    }

    /// Its number in the store.
    #[cfg(feature = "store")]
    pub(super) fn stored(&self) -> u64 {
        self.stored.load(Ordering::Relaxed)
    }

    /// It is the one after this, which another process has made.
    #[cfg(feature = "store")]
    pub(crate) fn come_after(&mut self, other: &Self) {
        self.number = self.number.max(other.number + 1);
        self.outrank(other);
    }

    /// In the store it is to stand for a later one than this, which has expired.
    #[cfg(feature = "store")]
    pub(super) fn outrank(&self, expired: &Self) {
        self.stored
            .fetch_max(expired.stored() + 1, Ordering::Relaxed);
    }

    #[cfg(feature = "store")]
    pub(super) fn outdated_versions(&self) -> &[HeaderValue] {
        &self.outdated_versions
    }

    /// Whether it is one of another process, and nothing has shown yet that it lives.
    #[cfg(feature = "store")]
    pub(crate) fn is_restored(&self) -> bool {
        self.unproven.load(Ordering::Relaxed) == RESTORED
    }

    /// A request with these headers has shown that it lives.
    #[cfg(feature = "store")]
    pub(crate) fn learn_credentials(&self, headers: HeaderMap) {
        // Of several that come at once, any will do.
        let _ = self.shown_by.set(headers);
    }

    #[cfg(feature = "store")]
    pub(super) fn shown_by(&self) -> Option<&HeaderMap> {
        self.shown_by.get()
    }

    #[inline]
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// The upstream id; `None` where the server became stateless (rule E8).
    pub(crate) fn id(&self) -> Option<&HeaderValue> {
        self.id.as_ref()
    }

    pub(crate) fn result(&self) -> Option<&InitializeResult> {
        self.result.get()
    }

    /// Records the result of the caller's own handshake.
    pub(crate) fn learn_result(&self, result: InitializeResult) {
        // A second answer to the same `initialize` changes nothing.
        let _ = self.result.set(result);
    }

    pub(crate) fn version(&self) -> Option<&HeaderValue> {
        self.result.get()?.version()
    }

    pub(crate) fn promised(&self) -> ListChanged {
        self.promised
    }

    #[inline]
    pub(crate) fn handshake(&self) -> Option<&Handshake> {
        self.handshake.as_deref()
    }

    /// What the epoch holds, about, in bytes (rule K10).
    pub(super) fn bytes(&self) -> usize {
        let handshake = self.handshake.as_ref().map_or(0, |it| it.bytes());
        let versions = self.outdated_versions.iter().chain(self.version());
        let versions = versions.map(|version| size_of_val(version) + version.len());
        #[cfg(feature = "store")]
        let handshake = handshake + self.shown_by().map_or(0, headers_bytes);
        size_of::<Self>()
            + self.id.as_ref().map_or(0, HeaderValue::len)
            + versions.sum::<usize>()
            + handshake
    }

    /// Whether requests and answers pass in it as they are, and have nothing to show.
    pub(super) fn is_plain(&self) -> bool {
        !self.translates && self.handshake.is_none() && !self.is_unproven()
    }

    /// Makes a caller's headers this epoch's (rule C1). Where nothing differs, nothing is done (C3).
    #[inline]
    pub(crate) fn translate_request(&self, headers: &mut HeaderMap) {
        if self.translates {
            self.translate(headers);
        }
    }

    fn translate(&self, headers: &mut HeaderMap) {
        each_session_header(headers, &mut |is_id, value| {
            let own = if is_id { self.id() } else { self.version() };
            if let Some(own) = own.filter(|_| is_id || self.outdated_versions.contains(value)) {
                *value = own.clone();
            }
        });
        if self.id.is_none() {
            headers.remove(SESSION_ID);
        }
        if let Some(handshake) = &self.handshake {
            handshake.affinity.translate(headers);
        }
    }

    /// Makes this epoch's answer the caller's (rule C2).
    pub(crate) fn translate_response(&self, headers: &mut HeaderMap, callers_id: &HeaderValue) {
        if !self.translates || self.id.is_none() {
            return;
        }
        each_session_header(headers, &mut |is_id, value| {
            if is_id && Some(&*value) == self.id() {
                *value = callers_id.clone();
            }
        });
    }

    /// The session has moved on to the next epoch: whoever waits in this one is told.
    pub(super) fn replace(&self) {
        self.replaced.store(true, Ordering::Release);
        self.replacement.notify_waiters();
    }

    /// The server has given its id away. Gives whether that was not known.
    pub(super) fn reassign(&self, to: Reassigned) -> bool {
        self.reassigned.fetch_max(to as u8, Ordering::AcqRel) == NOBODY
    }

    pub(crate) fn is_reassigned(&self) -> bool {
        self.reassigned.load(Ordering::Acquire) != NOBODY
    }

    /// Whether that was to nobody but its own session.
    pub(super) fn is_reassigned_to_own(&self) -> bool {
        self.reassigned.load(Ordering::Acquire) == Reassigned::OwnHandshake as u8
    }

    /// Whether that was to another session, or may have been.
    pub(crate) fn may_be_anothers(&self) -> bool {
        self.reassigned.load(Ordering::Acquire) > Reassigned::OwnHandshake as u8
    }

    /// Whether it is certain that its session has lost it.
    pub(super) fn is_lost(&self) -> bool {
        let to = self.reassigned.load(Ordering::Acquire);
        ![NOBODY, Reassigned::OneOfTwo as u8].contains(&to)
    }

    pub(crate) fn is_replaced(&self) -> bool {
        self.replaced.load(Ordering::Acquire)
    }

    /// The session is forgotten, and its upstream session about to be ended: whoever waits for an answer
    /// is told.
    pub(crate) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Release);
        self.replacement.notify_waiters();
    }

    /// It is recorded once more.
    #[cfg(feature = "store")]
    pub(super) fn is_back(&self) {
        self.abandoned.store(false, Ordering::Release);
    }

    /// Whether it has been replaced or abandoned.
    pub(super) fn is_left(&self) -> bool {
        self.is_replaced() || self.abandoned.load(Ordering::Acquire)
    }

    pub(super) fn replacement(&self) -> Arc<Notify> {
        self.replacement.clone()
    }

    /// Whether nothing has shown yet that the recovery which made it, if one did, was of use.
    pub(super) fn may_be_of_no_use(&self) -> bool {
        self.unproven.load(Ordering::Relaxed) == RECOVERED
    }

    /// Whether a recovery made it, and nothing has shown yet that it lives.
    pub(crate) fn is_unproven_recovery(&self) -> bool {
        is_recovered(self.unproven.load(Ordering::Relaxed))
    }

    /// Whether nothing has shown yet that it lives.
    #[inline]
    pub(crate) fn is_unproven(&self) -> bool {
        self.unproven.load(Ordering::Relaxed) != PROVEN
    }

    /// The recovery was of no use, so far; true the first time, if there was one.
    pub(super) fn doubt(&self) -> bool {
        let (of, to) = (RECOVERED, DOUBTED);
        let doubted = self
            .unproven
            .compare_exchange(of, to, Ordering::Relaxed, Ordering::Relaxed);
        doubted.is_ok()
    }

    /// There is no more to be shown; true the first time, if a recovery made it.
    pub(crate) fn settle(&self) -> bool {
        self.is_unproven() && is_recovered(self.unproven.swap(PROVEN, Ordering::Relaxed))
    }
}

fn is_recovered(unproven: u8) -> bool {
    unproven == RECOVERED || unproven == DOUBTED
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;
    use crate::session::{
        Sessions,
        fixture::{ENDPOINT, id, next, recorded},
    };

    #[test]
    fn c1_a_few_earlier_versions_are_known_and_the_callers_first_one_always() {
        let sessions = Sessions::new();
        let session = recorded(&sessions, ENDPOINT, "1");
        let versions: Vec<_> = (10..40).map(|day| format!("2025-01-{day}")).collect();
        let mut epoch = session.chain().current();
        for version in &versions {
            let result = format!(r#"{{"protocolVersion":"{version}"}}"#);
            let result = RawValue::from_string(result).unwrap();
            let result = InitializeResult::parse(&result).unwrap();
            let Some(handshake) = Arc::into_inner(next(&session, &id("2"))).unwrap().handshake
            else {
                unreachable!("a recovery makes one")
            };
            epoch = Arc::new(epoch.next(None, result, *handshake));
        }
        // That of the present epoch is none of them.
        let (first, rest) = (&versions[..1], &versions[versions.len() - MAX_VERSIONS..]);
        let known = first.iter().chain(&rest[..MAX_VERSIONS - 1]);
        assert!(epoch.outdated_versions.iter().eq(known));
    }
}
