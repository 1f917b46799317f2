//! A server that forgets sessions, its callers, and the recoveries that they start: what the rest of
//! the layer makes of a chain and of the table, without messages.
//!
//! Whoever sends something holds the server's lock, as if it was there at once: what the server does
//! between an answer and its arrival nobody can know.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{Extensions, HeaderMap, HeaderValue, Response, Uri, Version};
use serde_json::value::RawValue;
use shuttle::{
    future::{JoinHandle, spawn, yield_now},
    rand::{Rng, thread_rng},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{
    super::{
        Affinity, Assigned, Chain, Claim, Endpoint, Epoch, Handshake, Initialize, Key, Leader,
        Pauses, Session, Sessions, Snapshot, TableLimits,
    },
    clock,
    cut::{Cut, STEPS},
};
use crate::{Failure, mcp::InitializeResult};

/// Attempts without use are not paused, so that whoever may try does.
const PAUSES: Pauses = Pauses {
    first: Duration::ZERO,
    longest: Duration::ZERO,
};

/// How long a recovery may take: it is abandoned after twice that.
const PATIENCE: Duration = Duration::from_secs(5);

/// What becomes of recoveries.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Each comes to its end.
    Ends,
    /// Its task is dropped at any step.
    Dropped,
    /// The first one takes longer than anybody waits.
    Late,
    /// The first one's task does nothing any more, and is not dropped either.
    Stuck,
}

pub(super) struct World {
    pub(super) sessions: Sessions,
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) limits: TableLimits,
    server: Mutex<Server>,
    fate: Mutex<Fate>,
    /// What goes on while no caller waits for it.
    tasks: Mutex<Vec<JoinHandle<()>>>,
    /// How many make a handshake.
    at_it: AtomicUsize,
}

/// Which sessions the server knows, and of which handshake each is.
#[derive(Default)]
struct Server {
    live: BTreeMap<u64, Owner>,
    last_id: u64,
    handshakes: usize,
    replaced: BTreeSet<Owner>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Owner(usize);

/// What becomes of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Called {
    /// It was answered in this epoch.
    Answered(u64),
    /// It was sent twice, and its session was gone each time.
    Useless,
    /// It was not sent: the id of its session is another's.
    TurnedAway,
    Failed(Failure),
}

impl World {
    pub(super) fn new(fate: Fate) -> Arc<Self> {
        let uri = Uri::from_static("http://mcp.test/mcp");
        Arc::new(Self {
            sessions: Sessions::new(),
            endpoint: Arc::new(Endpoint::new(&uri, &HeaderMap::new())),
            limits: TableLimits {
                sessions: 100,
                bytes: usize::MAX,
            },
            server: Mutex::default(),
            fate: Mutex::new(fate),
            tasks: Mutex::default(),
            at_it: AtomicUsize::new(0),
        })
    }

    /// A caller's own handshake.
    pub(super) fn initialize(&self) -> Arc<Session> {
        let mut server = self.server.lock().unwrap();
        let (id, owner) = server.shake_hands();
        let key = Key {
            id,
            endpoint: self.endpoint.clone(),
            principal: None,
        };
        let initialize = Initialize {
            accept: None,
            content_type: None,
            body: Bytes::new(),
            credentials: HeaderMap::new(),
            extensions: of(owner),
        };
        let recorded = self
            .sessions
            .record(key, None, None, initialize, PAUSES, self.limits);
        recorded.0
    }

    /// The server forgets the session.
    pub(super) fn expire(&self, session: &Session) {
        let mut server = self.server.lock().unwrap();
        let owner = owner(session, &session.chain().current());
        server.live.retain(|_, it| *it != owner);
    }

    /// The server forgets all sessions, and counts anew.
    pub(super) fn restart(&self) {
        let mut server = self.server.lock().unwrap();
        server.live.clear();
        server.last_id = 0;
    }

    /// From here on every recovery comes to its end.
    pub(super) fn calm(&self) {
        *self.fate.lock().unwrap() = Fate::Ends;
    }

    pub(super) fn also(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.lock().unwrap().push(spawn(task));
    }

    /// Waits until nothing is under way any more.
    pub(super) async fn quiet(&self) {
        loop {
            let task = self.tasks.lock().unwrap().pop();
            let Some(task) = task else { return };
            task.await.unwrap();
        }
    }

    pub(super) fn handshakes(&self) -> usize {
        self.server.lock().unwrap().handshakes
    }

    /// How many sessions the server knows.
    pub(super) fn live(&self) -> usize {
        self.server.lock().unwrap().live.len()
    }

    /// What the table holds belongs together, and counts for what it is.
    pub(super) fn assert_whole(&self) {
        let table = self.sessions.write();
        let listed: Vec<_> = table.by_id.all().cloned().collect();
        let grouped = table.groups.values().flat_map(|group| group.values());
        assert_eq!(listed.len(), table.len);
        assert_eq!(
            listed.len(),
            grouped.clone().map(|group| group.len()).sum::<usize>()
        );
        let grouped: usize = grouped.map(|group| group.bytes()).sum();
        drop(table);
        let bytes: usize = listed.iter().map(|session| session.bytes()).sum();
        assert_eq!(bytes, grouped);
        assert_eq!(bytes, self.sessions.0.bytes.load(Ordering::SeqCst));
        for id in (1..=self.handshakes() as u64).map(HeaderValue::from) {
            let mut current = listed.iter().map(|session| session.chain().current());
            let is_named = current.any(|epoch| epoch.id() == Some(&id));
            assert_eq!(self.sessions.names(&self.endpoint, &id), is_named);
        }
    }

    /// A request of its own.
    pub(super) fn request(self: &Arc<Self>, session: &Arc<Session>) -> JoinHandle<Called> {
        spawn(self.clone().call(session.clone()))
    }

    pub(super) async fn call(self: Arc<Self>, session: Arc<Session>) -> Called {
        let chain = session.chain();
        let sent = {
            let server = self.server.lock().unwrap();
            if chain.is_forgotten() {
                // It is not found.
                return Called::Failed(Failure::Forgotten);
            }
            let (snapshot, is_there) = chain.snapshot();
            let knows = is_there.then(|| server.knows(&session, chain.epoch(&snapshot)));
            (snapshot, knows)
        };
        match sent {
            (snapshot, Some(true)) => self.answered(&session, &snapshot),
            (snapshot, Some(false)) => self.unknown(session, snapshot).await,
            (snapshot, None) => self.wait(session, snapshot).await,
        }
    }

    /// A request that has been sent, to a session that the server turns out not to know.
    pub(super) async fn unknown(
        self: Arc<Self>,
        session: Arc<Session>,
        mut snapshot: Snapshot,
    ) -> Called {
        match self.send_again(&session, &mut snapshot, true).await {
            Ok(true) => self.answered(&session, &snapshot),
            Ok(false) => {
                let chain = session.chain();
                chain.useless(chain.epoch(&snapshot));
                Called::Useless
            }
            Err(called) => called,
        }
    }

    /// A request whose session is not there to be used.
    async fn wait(self: Arc<Self>, session: Arc<Session>, mut snapshot: Snapshot) -> Called {
        match self.send_again(&session, &mut snapshot, false).await {
            Ok(true) => self.answered(&session, &snapshot),
            Ok(false) => self.unknown(session, snapshot).await,
            Err(called) => called,
        }
    }

    /// Sends a request in the epoch that is current once the session has been recovered. Whether the
    /// server knows it; or what becomes of the request if it cannot be sent.
    async fn send_again(
        self: &Arc<Self>,
        session: &Arc<Session>,
        snapshot: &mut Snapshot,
        is_replay: bool,
    ) -> Result<bool, Called> {
        loop {
            let recovered = self.recover(session, snapshot, true).await;
            recovered.map_err(Called::Failed)?;
            let chain = session.chain();
            let epoch = chain.epoch(snapshot);
            let server = self.server.lock().unwrap();
            if !chain.is_current(epoch) {
                continue;
            }
            if chain.is_forgotten() {
                return Err(Called::Failed(Failure::Forgotten));
            }
            if !is_replay && self.sessions.is_anothers(session, epoch) {
                return Err(Called::TurnedAway);
            }
            return Ok(server.knows(session, epoch));
        }
    }

    fn answered(&self, session: &Session, snapshot: &Snapshot) -> Called {
        let epoch = session.chain().epoch(snapshot);
        session.chain().lives(epoch);
        Called::Answered(epoch.number())
    }

    /// As `Exchange::recover`.
    async fn recover(
        self: &Arc<Self>,
        session: &Arc<Session>,
        seen: &mut Snapshot,
        leads: bool,
    ) -> Result<(), Failure> {
        let chain = session.chain();
        loop {
            let flight = match Chain::claim(session, seen, None, PATIENCE, leads) {
                Claim::Moved(moved) => {
                    let (before, after) = (chain.epoch(seen), chain.epoch(&moved));
                    assert!(before.number() < after.number(), "epochs go forward");
                    *seen = moved;
                    return Ok(());
                }
                Claim::NotLed => return Err(Failure::Paused),
                Claim::Failed(error) => return Err(error.failure),
                Claim::Join(flight) => flight,
                Claim::Lead(expired, flight, leader) => {
                    self.start(session, expired, leader);
                    flight
                }
            };
            match flight.ended().await {
                Ok(()) => {}
                Err(_) if chain.epoch(seen).is_replaced() => {}
                Err(error) => return Err(error.failure),
            }
        }
    }

    fn start(self: &Arc<Self>, session: &Arc<Session>, expired: Arc<Epoch>, leader: Leader) {
        let steps = match *self.fate.lock().unwrap() {
            Fate::Dropped => thread_rng().gen_range(0..STEPS),
            _ => usize::MAX,
        };
        let recovery = self.clone().recovery(session.clone(), expired, leader);
        let recovery = Cut::new(steps, recovery);
        self.also(async {
            recovery.await;
        });
    }

    /// As `RecoveryTask::run`.
    async fn recovery(self: Arc<Self>, session: Arc<Session>, expired: Arc<Epoch>, leader: Leader) {
        let fate = match &mut *self.fate.lock().unwrap() {
            fate @ (Fate::Late | Fate::Stuck) => std::mem::replace(fate, Fate::Ends),
            fate => *fate,
        };
        if matches!(fate, Fate::Late | Fate::Stuck) {
            clock::advance(PATIENCE * 3);
        }
        if fate == Fate::Stuck {
            std::mem::forget(leader);
            return;
        }
        let turns = self.sessions.handshakes(session.endpoint(), 1);
        let _turn = turns.acquire().await;
        let _at_it = AtIt::new(&self);
        let made = Made::new(&self, &session);
        yield_now().await;
        let handshake = Handshake {
            uri: Uri::default(),
            version: Version::HTTP_11,
            headers: HeaderMap::new(),
            extensions: of(made.owner),
            accepted: Response::default(),
            affinity: Affinity::default(),
        };
        let result = RawValue::from_string("{}".into()).unwrap();
        let result = InitializeResult::parse(&result).unwrap();
        let epoch = Arc::new(expired.next(Some(made.id.clone()), result, handshake));
        let published = self
            .sessions
            .publish(&session, leader, epoch, made.assigned.as_ref());
        match published {
            Err(leader) => leader.fail(Failure::Forgotten.into()),
            Ok(()) => {
                made.keep();
                let is_first = self
                    .server
                    .lock()
                    .unwrap()
                    .replaced
                    .insert(owner(&session, &expired));
                assert!(is_first, "an epoch is replaced once");
                assert!(expired.is_replaced());
            }
        }
    }

    /// A DELETE.
    pub(super) async fn delete(self: Arc<Self>, session: Arc<Session>) {
        let chain = session.chain();
        let (mut snapshot, is_there) = chain.snapshot();
        if !is_there && chain.is_recovering() {
            // If that fails it is sent in the epoch that it came in.
            let _ = self.recover(&session, &mut snapshot, false).await;
        }
        let epoch = chain.epoch(&snapshot);
        if epoch.number() > 0 && chain.is_forgotten() {
            return;
        }
        {
            let mut server = self.server.lock().unwrap();
            if !self.sessions.is_anothers(&session, epoch) {
                server.end(epoch.id().unwrap(), owner(&session, epoch));
            }
        }
        yield_now().await;
        self.sessions.forget(&session);
        let current = chain.current();
        if !std::ptr::eq(&*current, &**epoch) {
            self.end(current.id().unwrap(), owner(&session, &current));
        }
    }

    /// A JSON-RPC response, which stays in the session that it came for (rule F2).
    pub(super) async fn respond(self: Arc<Self>, session: Arc<Session>) {
        let chain = session.chain();
        let (mut snapshot, is_there) = chain.snapshot();
        let arrived = snapshot.clone();
        if !is_there {
            let _ = self.recover(&session, &mut snapshot, true).await;
            let (old, new) = (chain.epoch(&arrived), chain.epoch(&snapshot));
            if !Arc::ptr_eq(old, new) && old.id() == new.id() {
                return;
            }
        }
        // It may be polled late.
        yield_now().await;
        let epoch = chain.epoch(&arrived);
        let server = self.server.lock().unwrap();
        let has_ended = epoch.number() > 0 && chain.is_forgotten();
        if !has_ended && !self.sessions.is_anothers(&session, epoch) {
            server.knows(&session, epoch);
        }
    }

    /// As `Client::delete`.
    fn end(&self, id: &HeaderValue, owner: Owner) {
        let mut server = self.server.lock().unwrap();
        if !self.sessions.uses(&self.endpoint, id) {
            server.end(id, owner);
        }
    }
}

impl Server {
    fn shake_hands(&mut self) -> (HeaderValue, Owner) {
        self.handshakes += 1;
        self.last_id += 1;
        let owner = Owner(self.handshakes);
        self.live.insert(self.last_id, owner);
        (HeaderValue::from(self.last_id), owner)
    }

    fn knows(&self, session: &Session, epoch: &Epoch) -> bool {
        let live = self.live.get(&number(epoch.id().unwrap()));
        let is_known = live.is_some();
        assert!(
            live.is_none_or(|it| *it == owner(session, epoch)),
            "a request has entered another's session"
        );
        is_known
    }

    fn end(&mut self, id: &HeaderValue, owner: Owner) {
        let ended = self.live.remove(&number(id));
        assert!(
            ended.is_none_or(|it| it == owner),
            "another's session was ended"
        );
    }
}

fn number(id: &HeaderValue) -> u64 {
    id.to_str().unwrap().parse().unwrap()
}

fn of(owner: Owner) -> Extensions {
    let mut extensions = Extensions::new();
    extensions.insert(owner);
    extensions
}

/// Of which handshake an epoch is.
fn owner(session: &Session, epoch: &Epoch) -> Owner {
    let extensions = match epoch.handshake() {
        Some(handshake) => &handshake.extensions,
        None => &session.initialize().extensions,
    };
    *extensions.get().unwrap()
}

/// As `HalfOpen`: a session that is ended when it is dropped.
struct Made<'a> {
    world: &'a World,
    session: &'a Session,
    id: HeaderValue,
    owner: Owner,
    assigned: Option<Assigned>,
}

impl<'a> Made<'a> {
    fn new(world: &'a World, session: &'a Arc<Session>) -> Self {
        let mut server = world.server.lock().unwrap();
        let (id, owner) = server.shake_hands();
        let assigned = Some(world.sessions.assign(session, &id));
        Self {
            world,
            session,
            id,
            owner,
            assigned,
        }
    }

    fn keep(mut self) {
        self.assigned = None;
    }
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        let Some(assigned) = self.assigned.take() else {
            return;
        };
        if let Some(_given_up) = assigned.must_end(self.session) {
            self.world.end(&self.id, self.owner);
        }
    }
}

/// Those whose turn it is to make a handshake.
struct AtIt<'a>(&'a World);

impl<'a> AtIt<'a> {
    fn new(world: &'a World) -> Self {
        let others = world.at_it.fetch_add(1, Ordering::SeqCst);
        assert_eq!(others, 0, "one at a time");
        Self(world)
    }
}

impl Drop for AtIt<'_> {
    fn drop(&mut self) {
        self.0.at_it.fetch_sub(1, Ordering::SeqCst);
    }
}
