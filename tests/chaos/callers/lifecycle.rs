//! A client begins a session, and ends it.

use super::*;

impl Caller {
    /// A handshake of the caller's own.
    pub(super) async fn initialize(
        &self,
        random: &mut Random,
        old: Option<(usize, Option<HeaderValue>)>,
    ) {
        if std::mem::replace(&mut self.memory().is_initializing, true) {
            return;
        }
        let lineage = {
            let account = &mut self.world.state().account;
            account.lineages.push(Lineage {
                host: self.host,
                principal: self.principal,
                callers_id: None,
                is_known: false,
                is_untouched: false,
                is_ending: false,
                is_deleted: false,
                is_forgotten: false,
                is_abandoned: false,
                is_taken: false,
                current: None,
                superseded: HashMap::new(),
                attempts: Default::default(),
            });
            account.lineages.len() - 1
        };
        // With an id that the layer does not know, it is none of the layer's business (rule A1).
        let is_touched = old
            .as_ref()
            .is_none_or(|(_, id)| id.is_none() || self.is_on_record(id));
        let session = self
            .handshake(random, lineage, old.and_then(|(_, id)| id), is_touched)
            .await;
        let mut memory = self.memory();
        memory.is_initializing = false;
        let abandoned = match session {
            Some(session) => memory.session.replace(session),
            None => None,
        };
        drop(memory);
        let state = &mut self.world.state();
        if self
            .memory()
            .session
            .as_ref()
            .is_none_or(|mine| mine.lineage != lineage)
        {
            state.account.lineages[lineage].is_abandoned = true;
        }
        if let Some(abandoned) = abandoned {
            state.account.lineages[abandoned.lineage].is_abandoned = true;
        }
    }

    pub(super) async fn handshake(
        &self,
        random: &mut Random,
        lineage: usize,
        old: Option<HeaderValue>,
        is_touched: bool,
    ) -> Option<Mine> {
        let is_constant = self.is_constant();
        let id = self.next_id();
        let body = json!({"jsonrpc": "2.0", "id": id, "method": "initialize", "params": {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "chaos", "version": lineage.to_string()},
        }});
        let is_touched = is_touched || is_constant;
        let old = old.filter(|_| !is_constant);
        let mut outgoing = Outgoing::post(Kind::Initialize, Some(lineage), body);
        outgoing.session = old.clone();
        outgoing.late = random
            .chance(5)
            .then(|| Duration::from_millis(random.below(300)));
        let outcomes = self.send(random, outgoing).await;
        let was_well = self.world.state().was_well(outcomes.start);
        let answer = outcomes.answer;
        let status = answer.as_ref().map(|answer| answer.status().as_u16());
        let is_excused = is_constant || self.is_ended(lineage);
        if was_well && !is_excused && status != Some(200) && !self.has_bad_token(&outcomes.tag) {
            let what = format!(
                "an initialize ({}) of {:?}: {status:?}",
                outcomes.tag.number, self.number
            );
            self.world
                .state()
                .account
                .violate("every call succeeds while all is well", what);
        }
        let answer = answer.filter(|answer| answer.status() == 200)?;
        let id_of = answer.headers().get(SESSION_ID).cloned();
        if let Some(callers_id) = &id_of {
            let mut state = self.world.state();
            let is_shared = !state.settings.has_principal;
            let account = &mut state.account;
            for (other, it) in account.lineages.iter_mut().enumerate() {
                let is_same = it.host == self.host
                    && (is_shared || it.principal == self.principal)
                    && it.callers_id.as_ref() == Some(callers_id);
                if is_same && other != lineage {
                    it.is_known = false;
                }
            }
            account.lineages[lineage].callers_id = id_of.clone();
            account.lineages[lineage].is_known = is_touched;
            account.lineages[lineage].is_untouched = !is_touched;
            // An id that is not on record for all that is known here may be.
            account.uncertain += usize::from(!is_touched && old.is_some());
        }
        let text = timeout(Duration::from_secs(20), answer.into_body().collect())
            .await
            .ok()?
            .ok()?;
        let text = text.to_bytes();
        let mut version = None;
        let mut look = |text: &str| {
            if let Ok(message) = serde_json::from_str::<Value>(text) {
                if message["id"].as_u64() == Some(id) {
                    version = message["result"]["protocolVersion"]
                        .as_str()
                        .map(str::to_owned);
                }
            }
        };
        Events::default().read(&text, &mut look);
        look(&String::from_utf8_lossy(&text));
        let version = version?;
        let mine = Mine {
            lineage,
            id: id_of,
            version: Some(version),
            level: Some(None),
            subscriptions: BTreeMap::new(),
            changing: BTreeSet::new(),
        };
        let body = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        let mut outgoing = Outgoing::post(Kind::Initialized, Some(lineage), body);
        outgoing.of(&mine);
        let initialized = self.send(random, outgoing).await.answer?;
        initialized.status().is_success().then_some(mine)
    }

    pub(super) async fn delete(&self, mine: Mine) {
        {
            let mut memory = self.memory();
            if memory
                .session
                .as_ref()
                .is_some_and(|it| it.lineage == mine.lineage)
            {
                memory.session = None;
            }
        }
        self.world.state().account.lineages[mine.lineage].is_ending = true;
        let mut outgoing =
            Outgoing::post(Kind::Act(Action::Delete), Some(mine.lineage), Value::Null);
        outgoing.method = Method::DELETE;
        outgoing.of(&mine);
        let outcomes = self.send(&mut Random::new(0), outgoing).await;
        let status = outcomes.answer.map(|answer| answer.status().as_u16());
        let mut state = self.world.state();
        let is_shared = !state.settings.has_principal;
        // A 404 may be about credentials, which are others by now: then it is kept (rule D8).
        state.account.uncertain += usize::from(status == Some(404));
        let account = &mut state.account;
        let lineages = &mut account.lineages;
        if matches!(status, Some(200..300 | 404)) {
            // The record may have gone over to whom the id was handed out again, or not yet.
            for (number, it) in lineages.iter_mut().enumerate() {
                let is_same = it.host == self.host
                    && (is_shared || it.principal == self.principal)
                    && it.callers_id == mine.id
                    && it.is_known;
                if is_same {
                    it.is_known = false;
                    it.is_deleted = true;
                    it.is_forgotten |= number != mine.lineage;
                    account.uncertain += usize::from(number != mine.lineage);
                }
            }
            lineages[mine.lineage].is_known = false;
            lineages[mine.lineage].is_deleted = true;
            lineages[mine.lineage].is_forgotten |= status == Some(404);
        } else {
            let lineage = &mut lineages[mine.lineage];
            lineage.is_abandoned = true;
        }
    }
}
