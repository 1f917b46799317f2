//! What must hold of every request that leaves the layer.

use http::{HeaderMap, HeaderName, Method};

use crate::{
    account::{Kind, Tag, Upstream},
    plan::Action,
    server::{Ids, PROTOCOL_VERSION, SESSION_ID, Seen, cookie},
    world::State,
};

/// The headers that no caller brings.
const LAYERS: [&str; 4] = ["accept", "content-type", "content-length", "cookie"];

/// What describes a message or a connection, and not who sends it (rule E5).
const NOT_IN_HANDSHAKES: [&str; 5] = [
    "te",
    "idempotency-key",
    "last-event-id",
    "if-none-match",
    "x-hop",
];

pub fn check(state: &mut State, seen: &Seen) {
    let tag = &seen.tag;
    state.account.counts.arrivals += 1;
    if !seen.is_layers() {
        if let Some(serial) = seen.headers.get(SESSION_ID).and_then(|id| {
            Some(
                state.hosts[seen.host]
                    .sessions
                    .get(id.to_str().ok()?)?
                    .serial,
            )
        }) {
            let it = &mut state.account.upstreams[serial];
            it.is_published |= it.lineage == tag.lineage;
        }
    }
    state
        .account
        .check(tag.host == seen.host, "never another endpoint", || {
            format!(
                "{:?} {} of endpoint {} arrives at {}",
                tag.kind, tag.number, tag.host, seen.host
            )
        });
    let live = seen.headers.get(SESSION_ID).and_then(|id| {
        Some(
            state.hosts[seen.host]
                .sessions
                .get(id.to_str().ok()?)?
                .serial,
        )
    });
    state.account.tell(|| {
        let layers = if seen.is_layers() { "layer's " } else { "" };
        let id = seen.header(SESSION_ID);
        format!(
            "host {}: {layers}{} {} of {:?} {} of session {:?} with {id:?}, which is {live:?}; {:?} {:?}{}",
            seen.host, seen.method, seen.rpc_method(), tag.kind, tag.number, tag.lineage,
            seen.header("authorization"), seen.header("cookie"),
            seen.header("last-event-id").map(|id| format!(" after {id}")).unwrap_or_default(),
        )
    });
    headers(state, seen);
    if !seen.is_layers() && seen.method != Method::GET {
        let held = state.account.held.entry(tag.number).or_default();
        held.sendings += 1;
        let is_broken = held.is_broken;
        let (sendings, is_response) = (held.sendings, tag.kind == Kind::Act(Action::Response));
        let most = if is_response { 1 } else { 2 };
        state
            .account
            .check(sendings <= most, "sent again once", || {
                format!("{:?} {} is sent {sendings} times", tag.kind, tag.number)
            });
        state
            .account
            .check(!is_broken, "nothing over a truncated answer", || {
                format!("{:?} {} is sent again", tag.kind, tag.number)
            });
    }
    if let (false, Some(_)) = (seen.is_layers(), seen.header("last-event-id")) {
        let id = seen.headers.get(SESSION_ID).cloned();
        let held = state.account.held.entry(tag.number).or_default();
        let crosses = *held.resumed_in.get_or_insert_with(|| id.clone()) != id;
        state
            .account
            .check(!crosses, "an event id stays in its epoch", || {
                format!("{:?} {} resumes another session", tag.kind, tag.number)
            });
    }
    if seen.is_handshake() {
        let lineage = seen.message["params"]["clientInfo"]["version"].as_str();
        let lineage = lineage.and_then(|it| it.parse::<usize>().ok());
        state
            .account
            .check(lineage.is_some(), "never another's session", || {
                "a handshake without a body".into()
            });
        let Some(lineage) = lineage else { return };
        let is_constant = state.hosts[seen.host].ids == Ids::Constant;
        let is_known = tag
            .lineage
            .is_some_and(|of| state.account.lineages[of].is_known);
        let foreign = (tag.lineage.is_some_and(|of| of != lineage) && is_known && !is_constant)
            || (state.settings.has_principal
                && state.account.lineages[lineage].principal != tag.principal);
        state
            .account
            .check(!foreign, "never another's session", || {
                format!(
                    "request {} of session {:?} makes a handshake for {lineage}",
                    tag.number, tag.lineage
                )
            });
        if tag.lineage != Some(lineage) {
            state.account.lineages[lineage].is_taken = true;
        }
        state
            .account
            .handshake_begins(lineage, seen.headers.get("authorization"), is_constant);
        return;
    }
    if seen.rpc_method() == "initialize" {
        return;
    }
    session(state, seen);
}

fn headers(state: &mut State, seen: &Seen) {
    let tag = &seen.tag;
    let id = seen.headers.get(SESSION_ID);
    // A ping may go out with the credentials that the session was made with, and a stream that is
    // opened anew does (rules D8, G1).
    let lent = seen.is_ping() || seen.method == Method::GET;
    let made_with: Vec<HeaderMap> = match lent {
        true => {
            let lineages = &state.account.lineages;
            let is_known = tag
                .lineage
                .is_some_and(|lineage| lineages[lineage].is_known);
            let of = |it: &&Upstream| {
                let is_own = it.lineage == tag.lineage || !is_known;
                it.host == seen.host && it.id.as_ref() == id && is_own
            };
            state
                .account
                .upstreams
                .iter()
                .filter(of)
                .map(|it| it.made_with.clone())
                .collect()
        }
        false => Vec::new(),
    };
    let brought = |name: &HeaderName, value| {
        let brings = |headers: &HeaderMap| headers.get_all(name).iter().any(|it| it == value);
        brings(&tag.headers) || made_with.iter().any(brings)
    };
    let mut wrong = None;
    for (name, value) in &seen.headers {
        let own = [SESSION_ID, PROTOCOL_VERSION].contains(&name.as_str())
            || (seen.is_layers() && LAYERS.contains(&name.as_str()))
            || name == "cookie";
        if !own && !brought(name, value) {
            wrong = Some(format!(
                "{name}: {value:?} under {:?} {}",
                tag.kind, tag.number
            ));
        }
        if seen.is_layers() && NOT_IN_HANDSHAKES.contains(&name.as_str()) {
            wrong = Some(format!("{name} in a request of the layer's own"));
        }
    }
    if let Some(sent) = cookie(&seen.headers, "route") {
        let mine = cookie(&tag.headers, "route");
        let is_own = seen.is_layers() || lent || mine.is_some();
        if mine != Some(sent) && !(is_own && state.hosts[seen.host].has_set(sent)) {
            wrong = Some(format!("cookie {sent} under {:?} {}", tag.kind, tag.number));
        }
    }
    let user = cookie(&seen.headers, "user").map(str::to_owned);
    let brings = |headers: &HeaderMap| cookie(headers, "user") == user.as_deref();
    if user.is_some() && !brings(&tag.headers) && !made_with.iter().any(brings) {
        wrong = Some(format!("cookie user={user:?}"));
    }
    if let Some(wrong) = wrong {
        state
            .account
            .violate("no header that its caller did not bring", wrong);
    }
}

/// Whose session a request is sent in.
fn session(state: &mut State, seen: &Seen) {
    let tag = &seen.tag;
    let is_constant = state.hosts[seen.host].ids == Ids::Constant;
    let id = seen.headers.get(SESSION_ID);
    let live = id.and_then(|id| state.hosts[seen.host].sessions.get(id.to_str().ok()?));
    let (serial, version) = match live {
        Some(session) => (Some(session.serial), Some(session.version())),
        None => (None, None),
    };
    let Some(number) = tag.lineage else {
        // A stranger. Without a principal, nothing but the server keeps it out.
        if let (true, Some(serial)) = (state.settings.has_principal, serial) {
            let upstream = &state.account.upstreams[serial];
            // Nor can the layer, as long as it has not seen whose that is.
            let is_unseen = upstream.delivered.is_none();
            let owner = upstream.lineage;
            let owner = owner.map(|owner| state.account.lineages[owner].principal);
            let is_as_sent = id == tag.presented.as_ref();
            state.account.check(
                owner == Some(tag.principal) || is_as_sent || is_unseen,
                "never another's session",
                || format!("stranger {} in server session {serial}", tag.number),
            );
        }
        return;
    };
    // Whose id was handed out again has gone over to its new owner (rule B4).
    let is_shared = !state.settings.has_principal;
    let is_inherited = !state.account.lineages[number].is_known;
    let number = match is_inherited {
        false => number,
        true => {
            let mut lineages = state.account.lineages.iter();
            let heir = lineages.position(|it| {
                it.is_known
                    && it.host == tag.host
                    && (is_shared || it.principal == tag.principal)
                    && it.callers_id == tag.presented
            });
            heir.unwrap_or(number)
        }
    };
    let is_known = state.account.lineages[number].is_known;
    if is_constant || tag.kind == Kind::Initialize {
        return;
    }
    // What was begun for a session whose id was handed out again is brought to its end in it.
    let is_own = |upstream: &Upstream| {
        let is_heirs = is_inherited
            && upstream.lineage.is_some_and(|of| {
                let of = &state.account.lineages[of];
                (is_shared || of.principal == tag.principal) && of.callers_id == tag.presented
            });
        upstream.lineage == Some(number) || upstream.lineage == tag.lineage || is_heirs
    };
    let upstreams = &state.account.upstreams;
    match (id, serial) {
        (Some(id), Some(serial)) if !is_own(&upstreams[serial]) => {
            // Until the layer has seen that it was handed out again, it cannot know; nor if it saw
            // that in the wrong order.
            let own = upstreams
                .iter()
                .filter(|it| is_own(it) && it.id.as_ref() == Some(id));
            let own = own.filter_map(|it| it.delivered).max();
            let of = upstreams[serial].lineage;
            let is_untouched = of.is_some_and(|of| state.account.lineages[of].is_untouched);
            if upstreams[serial].delivered <= own || is_untouched && own.is_some() {
                // What it asks for is not what its caller believes.
                state.account.upstreams[serial].is_disturbed = true;
                state.account.misled.insert(tag.number);
                return;
            }
            if is_known || tag.presented.as_ref() != Some(id) {
                let of = upstreams[serial].lineage;
                let what = format!(
                    "{:?} {} ({:?}) of session {number} in server session {serial} of {of:?}",
                    tag.kind,
                    tag.number,
                    seen.rpc_method()
                );
                state.account.violate("never another's session", what);
            } else if seen.method == Method::DELETE {
                // Whom the layer was told to forget goes by the id that he believes is his.
                if let Some(of) = state.account.upstreams[serial].lineage {
                    state.account.lineages[of].is_taken = true;
                }
            }
        }
        (Some(_), Some(serial)) => {
            if let (Some(sent), Some(version)) = (seen.header(PROTOCOL_VERSION), version) {
                // A recovery that failed may have been given the id that the session had before. And
                // whoever goes by an id that was handed out again says what it was told itself.
                let is_half_open = !state.account.upstreams[serial].is_initialized;
                let is_heirs = tag.lineage != Some(number);
                state.account.check(
                    sent == version || !is_known || is_half_open || is_heirs,
                    "the session's version",
                    || format!("{sent} for {version} in {:?} {}", tag.kind, tag.number),
                );
            }
            calls_sent_in(state, seen, tag, serial);
            if shows_session(state, seen, serial) {
                let of = state.account.upstreams[serial].lineage;
                state.account.sent_in(of.unwrap_or(number), serial);
            }
        }
        (Some(id), None) => {
            let mut all = state.account.upstreams.iter();
            let last = all.rposition(|it| is_own(it) && it.id.as_ref() == Some(id));
            if last.is_none() && (is_known || tag.presented.as_ref() != Some(id)) {
                let what = format!(
                    "{:?} {} of session {number} with {:?}, an id that is not its own",
                    tag.kind,
                    tag.number,
                    id.to_str()
                );
                state.account.violate("never another's session", what);
            }
            last.inspect(|last| calls_sent_in(state, seen, tag, *last));
            if let Some(last) = last.filter(|last| shows_session(state, seen, *last)) {
                let of = state.account.upstreams[last].lineage;
                state.account.sent_in(of.unwrap_or(number), last);
            }
        }
        (None, _) => {
            let all = &state.account.upstreams;
            let last = all.iter().rposition(|it| is_own(it) && it.id.is_none());
            // The last one whose handshake has not failed, and will not.
            let is_whole = |it: &Upstream| !it.by_layer || it.is_accepted;
            let whole = |it: &Upstream| is_own(it) && it.id.is_none() && is_whole(it);
            let whole = all.iter().rposition(whole).or(last);
            state
                .account
                .check(last.is_some(), "never another's session", || {
                    format!(
                        "{:?} {} of session {number} without an id",
                        tag.kind, tag.number
                    )
                });
            if let Some(whole) = whole.filter(|_| !seen.is_layers()) {
                calls_sent_in(state, seen, tag, whole);
                let of = state.account.upstreams[whole].lineage;
                state.account.sent_in(of.unwrap_or(number), whole);
            }
        }
    }
}

/// Whether a request that is sent in this server session shows that it is its session's. Pings, and the
/// caller's own DELETE, may come to the half-open one that has the old one's id.
fn shows_session(state: &State, seen: &Seen, serial: usize) -> bool {
    let upstream = &state.account.upstreams[serial];
    let is_made = !upstream.by_layer || upstream.is_published;
    match seen.is_layers() {
        true => seen.is_ping() && is_made,
        false => seen.method != Method::DELETE || is_made,
    }
}

/// Where the calls of a request were sent last.
fn calls_sent_in(state: &mut State, seen: &Seen, tag: &Tag, serial: usize) {
    if !seen.is_layers() {
        for key in &tag.keys {
            state.account.call(*key).sent_in = Some(serial);
        }
    }
}
