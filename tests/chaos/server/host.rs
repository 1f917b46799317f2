//! A server: how it counts, what it says of sessions that it does not know, and those that it has.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use bytes::Bytes;

use crate::{
    faults::{Ending, Faults},
    random::Random,
    wire::Life,
};

const VERSIONS: [&str; 3] = ["2025-11-25", "2025-06-18", "2025-03-26"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ids {
    Random,
    /// From 1, anew after each restart.
    Counting,
    Constant,
}

pub struct Host {
    pub(super) number: usize,
    pub ids: Ids,
    pub(super) style: Style,
    pub(super) event_ids: bool,
    pub(super) newline: &'static str,
    pub(super) keeps_delete: bool,
    pub(super) echoes_id: bool,
    pub replicated: bool,
    pub(super) replicas: [u64; 3],
    pub(super) next_replica: usize,
    pub sessions: BTreeMap<String, Session>,
    pub(super) minted: u64,
    pub(super) version: &'static str,
    pub faults: Faults,
    pub(super) cookies: HashSet<String>,
}

pub struct Session {
    pub serial: usize,
    pub(super) principal: usize,
    pub(super) life: Arc<Life>,
    pub subscriptions: BTreeSet<String>,
    pub level: Option<String>,
    pub(super) version: &'static str,
    pub(super) streams: u64,
    /// What came after each event.
    pub(super) events: HashMap<String, (Vec<u64>, Bytes)>,
    pub replica: String,
}

/// How a server says that it does not know a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Style {
    pub(super) status: u16,
    pub(super) body: &'static str,
    pub(super) content_type: Option<&'static str>,
    /// It leaves no doubt.
    pub(super) is_plain: bool,
}

pub(super) const STYLES: [Style; 10] = {
    const fn style(
        status: u16,
        body: &'static str,
        content_type: Option<&'static str>,
        is_plain: bool,
    ) -> Style {
        Style {
            status,
            body,
            content_type,
            is_plain,
        }
    }
    const JSON: Option<&str> = Some("application/json");
    [
        style(
            404,
            r#"{"jsonrpc":"2.0","error":{"code":-32001,"message":"Session not found"},"id":null}"#,
            JSON,
            true,
        ),
        style(404, "Not Found: Session not found", None, true),
        style(
            404,
            r#"{"jsonrpc":"2.0","error":{"code":-32001,"message":"Session not found"},"id":OWN}"#,
            JSON,
            true,
        ),
        style(404, "", None, true),
        style(404, "<html>", Some("text/html"), true),
        style(
            400,
            r#"{"jsonrpc":"2.0","error":{"code":-32000,"message":"Bad Request: No valid session ID provided"}}"#,
            JSON,
            true,
        ),
        style(
            400,
            r#"{"jsonrpc":"2.0","error":{"code":-32000,"message":"Bad Request: Server not initialized"},"id":null}"#,
            JSON,
            true,
        ),
        style(
            401,
            "Unauthorized: Session not found",
            Some("text/plain"),
            false,
        ),
        style(400, "No active session", Some("text/plain"), false),
        style(
            503,
            "session is unknown on this API instance",
            Some("text/plain"),
            false,
        ),
    ]
};

impl Host {
    pub fn new(seed: u64, number: usize) -> Self {
        let mut random = Random::of(seed, 10 + number as u64);
        Self {
            number,
            ids: random.pick(&[
                Ids::Random,
                Ids::Random,
                Ids::Counting,
                Ids::Counting,
                Ids::Constant,
            ]),
            style: random.pick(&STYLES),
            event_ids: random.chance(50),
            newline: random.pick(&["\n", "\r\n"]),
            keeps_delete: random.chance(10),
            echoes_id: random.chance(60),
            replicated: number == 1 && random.chance(60),
            replicas: [0; 3],
            next_replica: 0,
            sessions: BTreeMap::new(),
            minted: 0,
            version: VERSIONS[0],
            faults: Faults::default(),
            cookies: HashSet::new(),
        }
    }

    /// A session is no more.
    pub fn expire(&mut self, id: &str, ending: Ending) {
        if let Some(session) = self.sessions.remove(id) {
            session.life.end(ending);
        }
    }

    pub fn expire_all(&mut self, ending: Ending) {
        while let Some(id) = self.sessions.keys().next().cloned() {
            self.expire(&id, ending);
        }
    }

    pub fn restart(&mut self, ending: Ending, random: &mut Random) {
        self.expire_all(ending);
        self.minted = 0;
        self.version = random.pick(&VERSIONS);
    }

    pub fn kill_replica(&mut self, ending: Ending, random: &mut Random) {
        let killed = random.index(3);
        let name = self.replica(killed);
        self.replicas[killed] += 1;
        let dead = self.sessions.iter().filter(|(_, it)| it.replica == name);
        let dead: Vec<_> = dead.map(|(id, _)| id.clone()).collect();
        dead.iter().for_each(|id| self.expire(id, ending));
    }

    pub fn replica(&self, number: usize) -> String {
        format!("r{number}.{}", self.replicas[number])
    }

    pub(super) fn mint(&mut self, random: &mut Random) -> String {
        self.minted += 1;
        match self.ids {
            Ids::Random => format!("{:016x}", random.next()),
            Ids::Counting => self.minted.to_string(),
            Ids::Constant => "constant".to_owned(),
        }
    }

    pub fn has_set(&self, cookie: &str) -> bool {
        self.cookies.contains(cookie)
    }
}

impl Session {
    pub fn version(&self) -> &'static str {
        self.version
    }
}
