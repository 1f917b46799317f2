//! A request as it is sent, and its answer as it is read.

use futures::FutureExt;

use super::*;
use crate::service::IS_CALLER;

impl Caller {
    /// Sends a request, and waits for its head.
    pub(super) async fn send(&self, random: &mut Random, outgoing: Outgoing) -> Outcomes {
        let mut headers = HeaderMap::new();
        let text = |text: String| HeaderValue::from_str(&text).unwrap();
        let (token, route) = {
            let memory = self.memory();
            (memory.token, memory.route.clone())
        };
        headers.insert(
            "authorization",
            text(format!("Bearer p{}.v{token}", self.principal)),
        );
        if self.number % 3 == 0 {
            headers.insert("x-api-key", text(format!("key-{}", self.number)));
        }
        headers.insert(
            "accept",
            HeaderValue::from_static("application/json, text/event-stream"),
        );
        if outgoing.method == Method::POST {
            headers.insert("content-type", HeaderValue::from_static("application/json"));
        }
        let user = (self.number % 2 == 0).then(|| format!("user={}", self.number));
        let cookies: Vec<_> = user
            .into_iter()
            .chain(route.map(|it| format!("route={it}")))
            .collect();
        if !cookies.is_empty() {
            headers.insert("cookie", text(cookies.join("; ")));
        }
        if let Some(session) = &outgoing.session {
            headers.insert(SESSION_ID, session.clone());
        }
        if let Some(version) = &outgoing.version {
            headers.insert(PROTOCOL_VERSION, text(version.clone()));
        }
        if let Some(last_event_id) = &outgoing.last_event_id {
            headers.insert("last-event-id", text(last_event_id.clone()));
        }
        let number = self.world.state().account.next_tag();
        self.world.state().account.tell(|| {
            let Outgoing { kind, lineage, session, padding, late, unpolled, .. } = &outgoing;
            let after = &outgoing.last_event_id;
            format!("caller {}: {kind:?} {number} of session {lineage:?} with {session:?}, {padding} {late:?} {unpolled:?} {after:?}", self.number)
        });
        headers.insert("x-request", text(number.to_string()));
        if random.chance(10) {
            headers.insert("te", HeaderValue::from_static("trailers"));
            headers.insert("idempotency-key", text(number.to_string()));
            headers.insert("connection", HeaderValue::from_static("x-hop"));
            headers.insert("x-hop", text(number.to_string()));
        }
        let has_known_ids = outgoing.has_known_ids();
        let tag = Tag {
            number,
            principal: self.principal,
            host: self.host,
            kind: outgoing.kind,
            lineage: outgoing.lineage,
            presented: outgoing.session,
            headers: headers.clone(),
            keys: outgoing.calls.values().copied().collect(),
        };
        let mut body = match &outgoing.body {
            Value::Null => String::new(),
            body => body.to_string(),
        };
        body.push_str(&" ".repeat(outgoing.padding));
        let mut request = Request::new(Sent::new(Bytes::from(body), outgoing.late));
        *request.method_mut() = outgoing.method;
        *request.uri_mut() = ["http://a.test/mcp", "http://b.test/mcp"][self.host]
            .parse()
            .unwrap();
        *request.headers_mut() = headers;
        request.extensions_mut().insert(tag.clone());

        let start = Instant::now();
        self.world.state().account.counts.requests += 1;
        let mut layer = self.layer.clone();
        // What a caller decides before its service is ready is none of the layer's business.
        IS_CALLER.set(true);
        let ready = layer.ready().now_or_never();
        IS_CALLER.set(false);
        let ready = ready.and_then(Result::ok);
        let mut sending = Box::pin(ready.expect("it is always ready").call(request));
        let mut own = outgoing.late.unwrap_or_default();
        let mut result = None;
        if let Some(unpolled) = outgoing.unpolled {
            own += unpolled;
            self.world.state().account.unpolled.insert(number);
            match poll!(sending.as_mut()) {
                std::task::Poll::Ready(ready) => result = Some(Ok(ready)),
                std::task::Poll::Pending => sleep(unpolled).await,
            }
        }
        let result = match result {
            Some(result) => result,
            None => timeout(outgoing.patience, sending).await,
        };
        let mut state = self.world.state();
        state.account.waited(&tag, start, own);
        let answer: Option<Answer> = match result {
            Ok(Ok(answer)) => Some(answer),
            Ok(Err(Broken)) => None,
            Err(_) => {
                if outgoing.patience > Duration::from_secs(60) {
                    if has_known_ids {
                        state.account.hangs(&tag);
                    }
                    if state.was_well(start) && tag.lineage.is_some() {
                        state.account.violate(
                            "every call succeeds while all is well",
                            format!("{number} hangs"),
                        );
                    }
                }
                drop(state);
                return Outcomes {
                    tag,
                    start,
                    answer: None,
                    gave_up: true,
                };
            }
        };
        drop(state);
        if let Some(answer) = &answer {
            let recovery = answer.extensions().get::<Recovery>();
            let (status, account) = (answer.status(), &self.world.state().account);
            account.tell(|| format!("    {number}: {status} {recovery:?}"));
        }
        if let Some(answer) = &answer {
            self.look(&tag, answer);
        }
        Outcomes {
            tag,
            start,
            answer,
            gave_up: false,
        }
    }

    /// What must hold of every answer's head.
    pub(super) fn look(&self, tag: &Tag, answer: &Answer) {
        let set_cookie = answer.headers().get_all(header::SET_COOKIE).iter();
        for set in set_cookie.filter(|_| self.keeps_cookies()) {
            let as_cookie = HeaderMap::from_iter([(header::COOKIE, set.clone())]);
            if let Some(route) = cookie(&as_cookie, "route") {
                self.memory().route = Some(route.to_owned());
            }
        }
        let recovery = answer.extensions().get::<Recovery>();
        if let Some(Outcome::Failed(Failure::Denied(status))) = recovery.map(Recovery::outcome) {
            let account = &mut self.world.state().account;
            let is_own = account
                .denied_handshakes
                .contains(&tag.headers["authorization"]);
            account.check(
                is_own || status != answer.status(),
                "a denial is told to those whom it concerns",
                || format!("{:?} {}", tag.kind, tag.number),
            );
        }
        if answer.status() == 401 {
            let token = self.world.state().tokens[self.principal];
            self.memory().token = token;
        }
        let Some(id) = answer.headers().get(SESSION_ID) else {
            return;
        };
        if tag.kind != Kind::Initialize
            && tag.lineage.is_some()
            && Some(id) != tag.presented.as_ref()
        {
            let what = format!("{:?} {}", tag.kind, tag.number);
            self.world
                .state()
                .account
                .violate("a caller sees its own id", what);
        }
    }

    /// Reads answers to their end, or for so long.
    pub(super) async fn read(
        &self,
        tag: &Tag,
        answer: Answer,
        calls: &HashMap<u64, u64>,
        most: Duration,
    ) -> Read {
        let is_event_stream = answer
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|it| it == "text/event-stream");
        let mut body = answer.into_body();
        let mut read = Read::default();
        let (mut events, mut whole, mut frames) = (Events::default(), Vec::new(), 0);
        let deadline = Instant::now() + most;
        let is_get = tag.kind.is_get();
        loop {
            let Ok(frame) = tokio::time::timeout_at(deadline, body.frame()).await else {
                read.is_dropped = true;
                break;
            };
            let Some(Ok(frame)) = frame else { break };
            frames += 1;
            if frames % 64 == 0 {
                tokio::task::yield_now().await;
            }
            let Ok(data) = frame.into_data() else {
                continue;
            };
            read.bytes.extend_from_slice(&data[..data.len().min(1000)]);
            if is_event_stream {
                events.read(&data, |event| self.heard(tag, event, calls, &mut read));
                if is_get && !calls.is_empty() && read.answered + read.lost >= calls.len() {
                    break;
                }
            } else {
                whole.extend_from_slice(&data);
            }
        }
        if !is_event_stream {
            self.heard(tag, &String::from_utf8_lossy(&whole), calls, &mut read);
        }
        read.last_id = events.last_id;
        read
    }

    /// What must hold of every message.
    pub(super) fn heard(&self, tag: &Tag, text: &str, calls: &HashMap<u64, u64>, read: &mut Read) {
        let mut state = self.world.state();
        let is_shared = state.hosts[self.host].ids == Ids::Constant;
        let account = &mut state.account;
        let is_lied = account.lied.contains(&tag.number);
        account.tell(|| format!("    {:?} {} hears {:.200}", tag.kind, tag.number, text));
        for said in messages(text, calls).unwrap_or_default() {
            match said {
                Said::Other(lineage) => {
                    let is_own = lineage.is_none() || lineage == tag.lineage.map(|it| it as u64);
                    account.check(is_own || is_shared, "a caller sees its own answers", || {
                        format!("{:?} {} hears of session {lineage:?}", tag.kind, tag.number)
                    });
                }
                Said::Answer { key, says } => {
                    read.answered += 1;
                    account.answered(key, tag);
                    account.check(
                        is_lied || says == Some(key) || is_shared && tag.kind.is_get(),
                        "a caller sees its own answers",
                        || format!("call {key} is answered with {says:?}"),
                    );
                }
                Said::Lost { key, reason } => {
                    read.lost += 1;
                    let resumes = tag.kind == Kind::Resume || is_shared;
                    account.told_lost(key, tag, &reason, resumes);
                }
                Said::Foreign => account.check(
                    is_lied || tag.kind.is_get(),
                    "a caller sees its own answers",
                    || format!("{:?} {} got: {text}", tag.kind, tag.number),
                ),
            }
        }
    }
}
