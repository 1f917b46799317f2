//! The event ids that a caller may resume from (rules G2, G3, G4).

use std::{collections::VecDeque, sync::Arc};

use http::HeaderValue;

use crate::mcp::{AskedId, EventIds, Id, MAX_ID_BYTES, PendingRequests};

/// What a stream takes up besides its ids and its requests', in bytes.
const STREAM: usize = 32;

/// The latest event ids let through in a session, and in which stream.
#[derive(Default)]
pub(crate) struct EventLog {
    /// In the order in which they told their first id.
    streams: VecDeque<LoggedStream>,
    len: usize,
    bytes: usize,
}

/// A stream and its ids.
struct LoggedStream {
    origin: StreamOrigin,
    ids: EventIds,
}

/// The stream an event came in: the one that answers a request, with all in which that is
/// resumed.
#[derive(Clone)]
pub(crate) struct StreamOrigin {
    epoch: u64,
    kind: Kind,
    /// Whether the log may know it already.
    is_known: bool,
}

#[derive(Clone)]
enum Kind {
    Listening(Arc<()>),
    Answer(Arc<PendingRequests>),
}

/// What a GET with `Last-Event-ID` asks to resume.
pub(crate) enum Logged {
    /// A listening stream.
    Listening(StreamOrigin),
    /// The stream that answers these requests.
    Answer(LoggedAnswer),
    /// A stream that the layer knows nothing of.
    Unknown,
}

/// The stream that answers requests, at some event of it.
pub(crate) struct LoggedAnswer {
    pub(crate) origin: StreamOrigin,
    pub(crate) pending: Arc<PendingRequests>,
    /// How many of the requests had been answered before the event.
    pub(crate) answered: usize,
}

impl LoggedAnswer {
    /// The requests whose answers came after the event, if at all.
    pub(crate) fn lost(&self) -> Vec<Id> {
        self.pending.lost_since(self.answered)
    }

    /// The caller resumes the stream from the event: it has not had what came after.
    pub(crate) fn resume(&self) {
        self.pending.reopen(self.answered);
    }
}

impl StreamOrigin {
    pub(crate) fn listening(epoch: u64) -> Self {
        Self {
            epoch,
            kind: Kind::Listening(Arc::default()),
            is_known: false,
        }
    }

    pub(crate) fn answer(epoch: u64, pending: Arc<PendingRequests>) -> Self {
        Self {
            epoch,
            kind: Kind::Answer(pending),
            is_known: false,
        }
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether this is the same stream.
    fn is(&self, other: &Self) -> bool {
        match (&self.kind, &other.kind) {
            (Kind::Listening(one), Kind::Listening(other)) => Arc::ptr_eq(one, other),
            (Kind::Answer(one), Kind::Answer(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }

    fn is_listening(&self) -> bool {
        matches!(self.kind, Kind::Listening(_))
    }

    fn is_answered(&self) -> bool {
        match &self.kind {
            Kind::Listening(_) => false,
            Kind::Answer(pending) => pending.are_answered(),
        }
    }

    /// Which of several streams with one id the caller is taken to mean. A call that is never told
    /// hangs, and is told once; a listening stream is opened again.
    fn precedence(&self) -> u8 {
        match &self.kind {
            Kind::Answer(pending) if !pending.are_answered() => 2,
            Kind::Listening(_) => 1,
            Kind::Answer(_) => 0,
        }
    }

    /// What the log holds for it besides its ids, in bytes.
    fn bytes(&self) -> usize {
        match &self.kind {
            Kind::Listening(_) => STREAM,
            Kind::Answer(pending) => STREAM + pending.held_bytes(),
        }
    }
}

impl EventLog {
    /// Remembers ids. If there are more than `limit`, or they take up too much, others make room
    /// (rule K7).
    pub(crate) fn remember(&mut self, ids: &EventIds, origin: &mut StreamOrigin, limit: usize) {
        if origin.bytes() > MAX_ID_BYTES / 2 {
            // It would push out all others.
            return;
        }
        let known = match std::mem::replace(&mut origin.is_known, true) {
            true => self.streams.iter().rposition(|it| it.origin.is(origin)),
            false => None,
        };
        let place = known.unwrap_or_else(|| {
            self.bytes += origin.bytes();
            self.streams.push_back(LoggedStream {
                origin: origin.clone(),
                ids: EventIds::default(),
            });
            self.streams.len() - 1
        });
        self.streams[place].ids.append(ids);
        self.len += ids.len();
        self.bytes += ids.bytes();
        while self.len > limit || self.bytes > MAX_ID_BYTES {
            let Some(place) = self.dispensable(limit) else {
                break;
            };
            self.make_room(place, limit);
        }
    }

    /// What it takes up, about, in bytes: there is room for as many ids again, and for those that
    /// made room.
    pub(crate) fn bytes(&self) -> usize {
        3 * self.bytes
    }

    /// The stream that has to make room: one that has been answered, else one that has other ids
    /// than its last, else one that waits for an answer, else an old listening stream.
    fn dispensable(&self, limit: usize) -> Option<usize> {
        let streams = || self.streams.iter();
        let latest = streams().rposition(|it| it.origin.is_listening());
        streams()
            .position(|it| it.origin.is_answered())
            .or_else(|| streams().position(|it| it.ids.len() > 1))
            .or_else(|| streams().position(|it| !it.origin.is_listening()))
            .or_else(|| {
                let listening = streams().position(|it| it.origin.is_listening());
                listening.filter(|place| limit == 0 || Some(*place) != latest)
            })
    }

    /// Forgets ids of the stream, the first ones first, and the stream with its last one.
    fn make_room(&mut self, place: usize, limit: usize) {
        let stream = &mut self.streams[place];
        let keeps = usize::from(!stream.origin.is_answered() && stream.ids.len() > 1);
        while (self.len > limit || self.bytes > MAX_ID_BYTES) && stream.ids.len() > keeps {
            let before = stream.ids.bytes();
            stream.ids.pop_first();
            self.bytes -= before - stream.ids.bytes();
            self.len -= 1;
        }
        if stream.ids.is_empty() {
            self.bytes -= stream.origin.bytes();
            self.streams.remove(place);
        } else {
            stream.ids.shrink();
        }
    }

    /// What the caller means by an id: the latest stream of those that used it and are still to be
    /// answered, since servers count from 0 in each session; else the latest that listens; else the
    /// latest one. Whoever asked before there was the epoch `before` means none of that.
    pub(crate) fn find_event(&self, last_event_id: &HeaderValue, before: Option<u64>) -> Logged {
        let asked = AskedId::new(last_event_id.as_bytes());
        let is_meant = |epoch| before.is_none_or(|before| epoch < before);
        let streams = self.streams.iter().filter(|it| is_meant(it.origin.epoch));
        let found = streams
            .filter_map(|stream| Some((&stream.origin, stream.ids.find(&asked)?)))
            .max_by_key(|(origin, _)| origin.precedence());
        let Some((origin, answered)) = found else {
            return Logged::Unknown;
        };
        match &origin.kind {
            Kind::Listening(_) => Logged::Listening(origin.clone()),
            Kind::Answer(pending) => Logged::Answer(LoggedAnswer {
                origin: origin.clone(),
                pending: pending.clone(),
                answered,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(epoch: u64, id: &str) -> StreamOrigin {
        let requests = [Id::from(id.to_owned())].into();
        StreamOrigin::answer(epoch, Arc::new(PendingRequests::new(requests)))
    }

    fn is_answered_by(origin: &StreamOrigin, id: &str) {
        match &origin.kind {
            Kind::Answer(pending) => {
                pending.read(format!(r#"{{"id":"{id}","result":0}}"#).as_bytes())
            }
            Kind::Listening(_) => unreachable!("nothing to answer"),
        }
    }

    fn remember(log: &mut EventLog, id: &str, origin: &mut StreamOrigin, limit: usize) {
        let mut more = EventIds::default();
        more.push(id.as_bytes(), 0);
        log.remember(&more, origin, limit);
    }

    /// The epoch of the stream, and its request.
    fn find(log: &EventLog, id: &str) -> Option<(u64, Option<String>)> {
        found(log.find_event(&HeaderValue::from_str(id).unwrap(), None))
    }

    fn found(logged: Logged) -> Option<(u64, Option<String>)> {
        match logged {
            Logged::Listening(origin) => Some((origin.epoch(), None)),
            Logged::Answer(logged) => {
                let lost = logged.lost().first().map(Id::to_string);
                Some((logged.origin.epoch(), lost))
            }
            Logged::Unknown => None,
        }
    }

    fn listens(epoch: u64) -> Option<(u64, Option<String>)> {
        Some((epoch, None))
    }

    fn answers(epoch: u64, id: &str) -> Option<(u64, Option<String>)> {
        Some((epoch, Some(format!("{id:?}"))))
    }

    #[test]
    fn k7_the_oldest_id_is_forgotten_first() {
        let (mut log, mut stream) = (EventLog::default(), StreamOrigin::listening(0));
        for id in ["a", "b", "c"] {
            remember(&mut log, id, &mut stream, 2);
        }
        let found = ["a", "b", "c"].map(|id| find(&log, id));
        assert_eq!(found, [None, listens(0), listens(0)]);
    }

    #[test]
    fn k7_what_is_answered_makes_room_and_the_last_id_of_a_listener_never() {
        let mut log = EventLog::default();
        let (mut old, mut idle) = (StreamOrigin::listening(0), StreamOrigin::listening(0));
        remember(&mut log, "old", &mut old, 4);
        remember(&mut log, "idle", &mut idle, 4);
        let mut calls = ["1", "2", "3"].map(|id| answer(0, id));
        for (call, id) in calls.iter_mut().zip(["one", "two", "three"]) {
            if id == "three" {
                continue;
            }
            remember(&mut log, id, call, 4);
        }
        is_answered_by(&calls[1], "2");
        remember(&mut log, "three", &mut calls[2], 4);
        assert_eq!(find(&log, "two"), None, "answered");
        assert_eq!(find(&log, "one"), answers(0, "1"));

        for number in 0..1_100 {
            let mut call = answer(0, "x");
            remember(&mut log, &format!("x{number}"), &mut call, 4);
        }
        assert_eq!([find(&log, "one"), find(&log, "three")], [None, None]);
        let found = ["old", "idle"].map(|id| find(&log, id));
        assert_eq!(found, [listens(0), listens(0)]);
        for number in 0..1_100 {
            let mut stream = StreamOrigin::listening(1);
            remember(&mut log, &format!("y{number}"), &mut stream, 4);
        }
        assert_eq!(find(&log, "y1099"), listens(1));
        assert_eq!([find(&log, "idle"), find(&log, "y1095")], [None, None]);
        assert_eq!((log.len, log.streams.len()), (4, 4));
    }

    #[test]
    fn g4_an_id_that_comes_again_means_the_latest_that_is_not_yet_answered() {
        let mut log = EventLog::default();
        let (mut five, mut six) = (answer(0, "5"), answer(1, "6"));
        remember(&mut log, "0/0", &mut five, 9);
        remember(&mut log, "0/0", &mut six, 9);
        assert_eq!(find(&log, "0/0"), answers(1, "6"));
        is_answered_by(&six, "6");
        assert_eq!(find(&log, "0/0"), answers(0, "5"));
        is_answered_by(&five, "5");
        assert_eq!(find(&log, "0/0"), answers(1, "6"));
        // A listening stream is never answered.
        let mut stream = StreamOrigin::listening(1);
        remember(&mut log, "0/0", &mut stream, 9);
        let mut seven = answer(1, "7");
        remember(&mut log, "0/0", &mut seven, 9);
        is_answered_by(&seven, "7");
        assert_eq!(find(&log, "0/0"), listens(1));
    }

    #[test]
    fn g4_a_listening_stream_hides_no_call_that_is_still_to_be_answered() {
        for epoch in 0..2 {
            let mut log = EventLog::default();
            let mut five = answer(0, "5");
            remember(&mut log, "0", &mut five, 9);
            for _ in 0..2 {
                remember(&mut log, "0", &mut StreamOrigin::listening(epoch), 9);
                assert_eq!(find(&log, "0"), answers(0, "5"), "{epoch}");
            }
            is_answered_by(&five, "5");
            assert_eq!(find(&log, "0"), listens(epoch));
        }
    }

    #[test]
    fn g4_what_was_asked_before_there_was_an_epoch_means_no_stream_of_it() {
        let mut log = EventLog::default();
        remember(&mut log, "0", &mut answer(0, "5"), 9);
        remember(&mut log, "0", &mut answer(1, "6"), 9);
        remember(&mut log, "1", &mut StreamOrigin::listening(1), 9);
        let id = HeaderValue::from_static;
        assert_eq!(found(log.find_event(&id("0"), None)), answers(1, "6"));
        assert_eq!(found(log.find_event(&id("0"), Some(1))), answers(0, "5"));
        assert_eq!(found(log.find_event(&id("1"), None)), listens(1));
        assert_eq!(found(log.find_event(&id("1"), Some(1))), None);
    }

    #[test]
    fn k7_ids_are_bounded_in_bytes_whatever_the_streams_and_requests() {
        let mut log = EventLog::default();
        let long = "x".repeat(60_000);
        for number in 0..5_000 {
            let mut call = answer(0, &long[..number * 12]);
            let id = format!("{}{number}", &long[..number % 3_000]);
            remember(&mut log, &id, &mut call, 1_024);
            remember(&mut log, &id, &mut call, 1_024);
            assert!(log.len <= 1_024 && log.bytes <= MAX_ID_BYTES, "{number}");
        }
        let (mut log, mut small) = (EventLog::default(), StreamOrigin::listening(0));
        remember(&mut log, "first", &mut small, 1_024);
        for number in 0..1_023 {
            let mut call = answer(0, "1");
            remember(&mut log, &number.to_string(), &mut call, 1_024);
        }
        assert_eq!(log.len, 1_024, "short ids of as many streams fit");
        let mut huge = answer(0, &"x".repeat(100_000));
        remember(&mut log, "huge", &mut huge, 1_024);
        assert_eq!(find(&log, "huge"), None);
        assert_eq!(find(&log, "first"), listens(0));
    }

    #[test]
    fn k7_a_stream_is_one_however_many_chunks_its_ids_come_in() {
        for mut stream in [StreamOrigin::listening(0), answer(0, "1")] {
            let (mut log, mut other) = (EventLog::default(), StreamOrigin::listening(0));
            for number in 0..100 {
                remember(&mut log, &number.to_string(), &mut stream, 1_024);
                remember(&mut log, "other", &mut other, 1_024);
            }
            assert_eq!((log.streams.len(), log.len), (2, 200));
        }
    }

    #[test]
    fn k7_requests_count_as_what_their_streams_take_up() {
        let mut log = EventLog::default();
        remember(&mut log, "id", &mut StreamOrigin::listening(0), 9);
        let listening = log.bytes;
        assert!(listening >= STREAM + "id".len());
        let long = "x".repeat(1_000);
        remember(&mut log, "id", &mut answer(0, &long), 9);
        let answering = log.bytes - listening;
        assert!(answering >= listening + long.len() && answering < 2 * long.len());
        // What takes up half of all there is would push out the others.
        for (id, size, is_known) in [
            ("half", MAX_ID_BYTES / 2 - 500, true),
            ("more", MAX_ID_BYTES / 2 + 1, false),
        ] {
            remember(&mut log, id, &mut answer(0, &"x".repeat(size)), 9);
            assert_eq!(find(&log, id).is_some(), is_known);
        }
        // As much again fits, and once more does not.
        for (id, stays) in [("again", true), ("once more", false)] {
            remember(
                &mut log,
                id,
                &mut answer(0, &"x".repeat(MAX_ID_BYTES / 2 - 500)),
                9,
            );
            assert!(log.bytes <= MAX_ID_BYTES && find(&log, id).is_some());
            assert_eq!(find(&log, "half").is_some(), stays);
        }
    }

    /// G3: nor does anything make room for more than there is to come.
    #[test]
    fn k7_streams_that_wait_for_an_answer_keep_their_last_id() {
        let mut log = EventLog::default();
        let ids = |name: &str| {
            let mut ids = EventIds::default();
            (0..5).for_each(|n| ids.push(format!("{name}{n}").as_bytes(), 0));
            ids
        };
        for name in ["a", "b", "c"] {
            log.remember(&ids(name), &mut answer(0, name), 3);
        }
        assert_eq!((log.len, log.streams.len()), (3, 3));
        for name in ["a", "b", "c"] {
            assert_eq!(find(&log, &format!("{name}4")), answers(0, name));
        }
    }

    #[test]
    fn k7_nothing_is_remembered_where_nothing_may_be() {
        let mut log = EventLog::default();
        remember(&mut log, "a", &mut StreamOrigin::listening(0), 0);
        remember(&mut log, "b", &mut answer(0, "1"), 0);
        assert_eq!((log.len, log.bytes, log.streams.len()), (0, 0, 0));
    }
}
