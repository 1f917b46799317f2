//! What a session holds counts (rule K10): each part in turn is longer, and so is the whole.

use http::{Response, Version};
use serde_json::value::RawValue;

use super::*;
use crate::{
    Failure,
    mcp::InitializeResult,
    session::{
        Affinity, Endpoint, Handshake, RecoveryError, Sessions, TableLimits,
        fixture::{PAUSES, lead, recorded},
    },
};

const LONG: usize = 40;

/// The texts of a session's parts, all of them short but one.
struct Parts {
    long: usize,
    number: usize,
}

impl Parts {
    fn text(&mut self) -> String {
        self.number += 1;
        match self.number == self.long {
            true => "x".repeat(LONG + 1),
            false => "x".to_owned(),
        }
    }

    fn value(&mut self) -> HeaderValue {
        HeaderValue::from_str(&self.text()).unwrap()
    }

    fn header(&mut self, name: &'static str) -> HeaderMap {
        let name = http::HeaderName::from_static(name);
        HeaderMap::from_iter([(name, self.value())])
    }

    fn uri(&mut self) -> Uri {
        let (host, path) = (self.text(), self.text());
        format!("http://{host}.test/{path}").parse().unwrap()
    }
}

/// How much more a session counts for each of its parts that is longer.
fn more(parts: usize, held: impl Fn(&mut Parts) -> usize) -> Vec<usize> {
    let held = |long| held(&mut Parts { long, number: 0 });
    let short = held(0);
    assert!(short > size_of::<Session>());
    (1..=parts).map(|long| held(long) - short).collect()
}

fn limits() -> TableLimits {
    TableLimits {
        sessions: 10,
        bytes: usize::MAX,
    }
}

#[test]
fn k10_what_the_callers_initialize_leaves_behind_counts() {
    let held = |parts: &mut Parts| {
        let sessions = Sessions::new();
        let key = Key {
            id: parts.value(),
            endpoint: Arc::new(Endpoint::new(&parts.uri(), &parts.header("host"))),
            principal: Some(parts.text().into()),
        };
        let [accept, content_type] = [(); 2].map(|()| Some(parts.value()));
        let uri = format!("/?{}", parts.text()).parse().unwrap();
        let initialize = Initialize {
            accept,
            content_type,
            body: parts.text().into(),
            credentials: parts.header("cookie"),
            extensions: Extensions::new(),
        };
        let (session, _) = sessions.record(key, None, Some(uri), initialize, PAUSES, limits());
        session.bytes()
    };
    let mut expected = [LONG; 10];
    // The id is that of the first epoch, too.
    expected[0] = 2 * LONG;
    assert_eq!(more(10, held), expected);
}

#[test]
fn k10_what_a_recovery_leaves_behind_counts() {
    let held = |parts: &mut Parts| {
        let sessions = Sessions::new();
        let session = recorded(&sessions, "http://a.test/mcp", "1");
        let set_cookie = HeaderValue::from_str(&format!("c=; a={}", parts.text())).unwrap();
        let mut affinity = Affinity::default();
        affinity.learn(&HeaderMap::from_iter([(
            http::header::SET_COOKIE,
            set_cookie,
        )]));
        let mut accepted = Response::new(parts.text().into());
        *accepted.headers_mut() = parts.header("etag");
        let handshake = Handshake {
            uri: format!("http://a.test/{}", parts.text()).parse().unwrap(),
            version: Version::HTTP_11,
            headers: parts.header("cookie"),
            extensions: Extensions::new(),
            accepted,
            affinity,
        };
        let result = format!(r#"{{"protocolVersion":"{}"}}"#, parts.text());
        let result = RawValue::from_string(result).unwrap();
        let result = InitializeResult::parse(&result).unwrap();
        let leader = lead(&session);
        let epoch = session.chain().current();
        let epoch = Arc::new(epoch.next(Some(parts.value()), result, handshake));
        assert!(
            sessions
                .publish(&session, leader, epoch.clone(), None)
                .is_ok()
        );
        session.chain().lives(&epoch);
        lead(&session).fail(RecoveryError {
            authorization: Some(parts.value()),
            ..Failure::Paused.into()
        });
        session.recount();
        session.bytes()
    };
    assert_eq!(more(8, held), [LONG; 8]);
}

#[test]
fn k10_what_a_session_gathers_counts() {
    let held = |parts: &mut Parts| {
        let sessions = Sessions::new();
        let session = recorded(&sessions, "http://a.test/mcp", "1");
        session.apply(StateChange::Subscribe(parts.text()), 9);
        session.accept(0, &[Id::from(parts.text())]);
        let ask = format!(
            r#"{{"id":1,"method":"resources/subscribe","params":{{"uri":"{}"}}}}"#,
            parts.text()
        );
        session.ask(&PendingChanges::in_body(ask.as_bytes(), None).unwrap());
        let mut ids = EventIds::default();
        ids.push(parts.text().as_bytes(), 0);
        session.remember(&ids, &mut StreamOrigin::listening(0), 9);
        session.bytes()
    };
    // There is room for as many ids again, and for those that made room.
    assert_eq!(more(4, held), [LONG, LONG, LONG, 3 * LONG]);
}

#[cfg(feature = "store")]
#[test]
fn k10_what_is_known_of_a_store_counts() {
    let held = |parts: &mut Parts| {
        let sessions = Sessions::new();
        let session = recorded(&sessions, "http://a.test/mcp", "1");
        let none = session.bytes();
        let change = StateChange::Subscribe(parts.text());
        session.with_synced(|_, synced| synced.unstored.note(change));
        assert!(session.bytes() - none > size_of::<super::super::synced::Synced>());
        session.bytes()
    };
    assert_eq!(more(1, held), [LONG]);
}

/// And it counts in the table, as long as it is there.
#[test]
fn k10_the_table_counts_what_its_sessions_hold() {
    let sessions = Sessions::new();
    let one = recorded(&sessions, "http://a.test/mcp", "1");
    let other = recorded(&sessions, "http://a.test/mcp", "2");
    one.apply(StateChange::Subscribe("file:///a".to_owned()), 9);
    let bytes = || sessions.0.bytes.load(Ordering::Relaxed);
    assert_eq!(bytes(), one.bytes() + other.bytes());
    let limits = |bytes| TableLimits { bytes, ..limits() };
    assert!(sessions.shrink(limits(bytes())).is_empty());
    let evicted = sessions.shrink(limits(bytes() - 1));
    assert!(evicted.len() == 1 && Arc::ptr_eq(&evicted[0], &one));
    assert_eq!(bytes(), other.bytes());
}
