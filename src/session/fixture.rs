//! Sessions and epochs for the tests of this folder, without a server.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Extensions, HeaderMap, HeaderValue, Response, Uri, Version};
use serde_json::value::RawValue;

use super::{
    Affinity, Chain, Claim, Endpoint, Epoch, Handshake, Initialize, Key, Leader, Pauses, Session,
    Sessions, TableLimits,
};
use crate::mcp::InitializeResult;

pub(super) const ENDPOINT: &str = "http://mcp.test/mcp";

pub(super) const PAUSES: Pauses = Pauses {
    first: Duration::from_secs(60),
    longest: Duration::from_secs(600),
};

pub(super) fn id(id: &'static str) -> HeaderValue {
    HeaderValue::from_static(id)
}

/// A session that the server at `uri` has given this id.
pub(super) fn recorded(sessions: &Sessions, uri: &'static str, id: &'static str) -> Arc<Session> {
    let key = Key {
        id: HeaderValue::from_static(id),
        endpoint: Arc::new(Endpoint::new(&Uri::from_static(uri), &HeaderMap::new())),
        principal: None,
    };
    let initialize = Initialize {
        accept: None,
        content_type: None,
        body: Bytes::from_static(br#"{"id":1,"method":"initialize"}"#),
        credentials: HeaderMap::new(),
        extensions: Extensions::new(),
    };
    let limits = TableLimits {
        sessions: 10,
        bytes: usize::MAX,
    };
    let (session, evicted) = sessions.record(key, None, None, initialize, PAUSES, limits);
    assert!(evicted.is_empty());
    session
}

/// Claims the recovery of the current epoch.
pub(super) fn lead(session: &Arc<Session>) -> Leader {
    let (seen, _) = session.chain().snapshot();
    match Chain::claim(session, &seen, None, Duration::MAX, true) {
        Claim::Lead(_, _, leader) => leader,
        _ => panic!("nobody else does"),
    }
}

/// The epoch after the current one, as a handshake makes it.
pub(super) fn next(session: &Session, id: &HeaderValue) -> Arc<Epoch> {
    next_of(session, Some(id.clone()))
}

/// The same of a server that may have become stateless.
pub(super) fn next_of(session: &Session, id: Option<HeaderValue>) -> Arc<Epoch> {
    let result = RawValue::from_string("{}".into()).unwrap();
    let result = InitializeResult::parse(&result).unwrap();
    let handshake = Handshake {
        uri: Uri::default(),
        version: Version::HTTP_11,
        headers: HeaderMap::new(),
        extensions: Extensions::new(),
        accepted: Response::default(),
        affinity: Affinity::default(),
    };
    let current = session.chain().current();
    Arc::new(current.next(id, result, handshake))
}
