//! What a server says to the requests of a session, true or not.

use super::*;

impl Serving<'_> {
    /// Does what messages ask for, and answers.
    pub(super) fn execute(&mut self, id: Option<String>) -> Act {
        let messages = match &self.seen.message {
            Value::Array(batch) => batch.clone(),
            one => vec![one.clone()],
        };
        let serial = match &id {
            Some(id) => Some(self.host.sessions[id].serial),
            None => self.serial(),
        };
        // While state is restored, the session is not in use yet.
        if !self.seen.is_layers() || self.seen.is_ping() {
            self.account.alive = serial;
        }
        let serial = serial.filter(|_| id.is_some());
        let mut answers = Vec::new();
        let lies =
            self.host.faults.has(Fault::Lies) && !self.seen.is_layers() && self.random.chance(40);
        if lies {
            self.account.lied.insert(self.seen.tag.number);
        }
        for message in &messages {
            let params = &message["params"];
            if let Some(key) = params["key"].as_u64() {
                if lies {
                    self.account.call(key).is_lied_about = true;
                }
                self.account.executed(key, serial);
            }
            if let Some(session) = id.as_ref().and_then(|id| self.host.sessions.get_mut(id)) {
                let uri = params["uri"].as_str().unwrap_or_default().to_owned();
                match message["method"].as_str().unwrap_or_default() {
                    "resources/subscribe" => drop(session.subscriptions.insert(uri)),
                    "resources/unsubscribe" => drop(session.subscriptions.remove(&uri)),
                    "logging/setLevel" => {
                        session.level = params["level"].as_str().map(str::to_owned)
                    }
                    _ => {}
                }
            }
            if message["method"].is_string() && !message["id"].is_null() {
                let key = params["key"].as_u64();
                let result = json!({"key": key});
                let answer = json!({"jsonrpc": "2.0", "id": message["id"], "result": result});
                answers.push((key, answer));
            }
        }
        if answers.is_empty() {
            return self.plain(202, "", None);
        }
        if lies {
            return self.lie(answers);
        }
        if self.random.chance(50) {
            answers.reverse();
        }
        self.results(id, answers)
    }

    pub(super) fn results(
        &mut self,
        id: Option<String>,
        answers: Vec<(Option<u64>, Value)>,
    ) -> Act {
        let keys: Vec<u64> = answers.iter().filter_map(|(key, _)| *key).collect();
        let life = id.as_ref().map(|id| self.host.sessions[id].life.clone());
        let delay = self.delay();
        if self.random.chance(40) {
            let answers: Vec<_> = answers.into_iter().map(|(_, answer)| answer).collect();
            let text = match self.seen.message.is_array() {
                true => Value::from(answers).to_string(),
                false => answers[0].to_string(),
            };
            let piece = Piece::Data(text.into(), keys.clone());
            let mut answer = self.answer(200, Some("application/json"), vec![piece]);
            answer.body_mut().calls = keys;
            self.cut(&mut answer);
            return Act::Answer(delay, life, Box::new(answer));
        }
        let newline = self.host.newline;
        let session = id.as_ref().and_then(|id| self.host.sessions.get_mut(id));
        let has_ids = self.host.event_ids && session.is_some() && self.random.chance(70);
        let stream = session.map_or(0, |session| {
            session.streams += 1;
            session.streams - 1
        });
        let mut script = Vec::new();
        let mut number = 0;
        let mut event_id = || {
            number += 1;
            has_ids.then(|| format!("{stream}/{}", number - 1))
        };
        let mut ids = Vec::new();
        if has_ids {
            let id = event_id();
            script.push(self.event(id.as_deref(), "", Vec::new()));
            ids.push((id, 0));
        }
        if self.random.chance(20) {
            let lineage = self.seen.tag.lineage;
            let note = json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"lineage": lineage}});
            script.push(self.event(None, &note.to_string(), Vec::new()));
        }
        if self.random.chance(5) {
            script.push(Piece::Data(
                format!(": alive{newline}{newline}").into(),
                Vec::new(),
            ));
        }
        script.push(Piece::Wait(delay));
        let all: Vec<_> = answers
            .iter()
            .map(|(key, answer)| (*key, answer.to_string()))
            .collect();
        for (position, (key, answer)) in all.iter().enumerate() {
            let id = event_id();
            script.push(self.event(id.as_deref(), answer, key.iter().copied().collect()));
            ids.push((id, position + 1));
        }
        for (event, position) in ids {
            let (Some(event), Some(id)) = (event, &id) else {
                continue;
            };
            let rest: String = all[position..]
                .iter()
                .map(|(_, answer)| format!("data: {answer}{newline}{newline}"))
                .collect();
            let keys = all[position..].iter().filter_map(|(key, _)| *key).collect();
            if let Some(session) = self.host.sessions.get_mut(id) {
                session.events.insert(event, (keys, rest.into()));
            }
        }
        let mut answer = self.answer(200, Some("text/event-stream"), script);
        answer.body_mut().life = life.clone();
        answer.body_mut().calls = keys;
        self.cut(&mut answer);
        Act::Answer(Duration::ZERO, life, Box::new(answer))
    }

    pub(super) fn lie(&mut self, answers: Vec<(Option<u64>, Value)>) -> Act {
        let event = |text: &str| Piece::Data(format!("data: {text}\n\n").into(), Vec::new());
        let mut answer = answers[0].1.clone();
        let (status, content_type, script) = match self.random.below(7) {
            0 => {
                answer["id"] = json!("another");
                (200, "text/event-stream", vec![event(&answer.to_string())])
            }
            1 => (200, "application/json", vec![event("{")]),
            2 => (
                200,
                "text/event-stream",
                vec![
                    Piece::Burst(2000),
                    Piece::Wait(Duration::from_secs(1)),
                    Piece::Burst(2000),
                    event("[[["),
                ],
            ),
            3 => {
                let huge = Bytes::from(vec![b'x'; 32 * 1024]);
                let pieces = (0..50).map(|_| Piece::Data(huge.clone(), Vec::new()));
                (200, "text/event-stream", pieces.collect())
            }
            // It has been executed, and the server says that it has not.
            4 => {
                self.deny_current(404);
                (404, "text/plain", vec![])
            }
            5 => {
                self.deny_current(404);
                (404, "text/plain", vec![Piece::Burst(3000), Piece::Hang])
            }
            _ => {
                answer["id"] = Value::Null;
                let text = answer.to_string();
                (
                    200,
                    "text/event-stream",
                    vec![event(&text), event(&text), Piece::Break],
                )
            }
        };
        let answer = self.answer(status, Some(content_type), script);
        Act::Answer(Duration::ZERO, None, Box::new(answer))
    }

    pub(super) fn listen(&mut self, id: &str) -> Act {
        let lineage = self.seen.tag.lineage;
        let session = &self.host.sessions[id];
        let life = session.life.clone();
        let serial = session.serial;
        let last = self.seen.header("last-event-id").map(str::to_owned);
        let resumed = last.and_then(|last| session.events.get(&last)).cloned();
        self.account.alive = Some(serial);
        let delay = self.delay();
        let mut script = vec![Piece::Wait(delay)];
        let mut calls = Vec::new();
        match resumed {
            Some((keys, rest)) => {
                calls = keys.clone();
                script.push(Piece::Data(rest, keys));
            }
            None => {
                for number in 0..20 {
                    let note = json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"lineage": lineage}});
                    let event_id = format!("l/{number}");
                    let event_id = self.host.event_ids.then_some(event_id.as_str());
                    script.push(self.event(event_id, &note.to_string(), Vec::new()));
                    script.push(Piece::Wait(Duration::from_millis(
                        300 + self.random.below(3000),
                    )));
                }
                script.push(Piece::Hang);
            }
        }
        let mut answer = self.answer(200, Some("text/event-stream"), script);
        answer.body_mut().life = Some(life.clone());
        answer.body_mut().calls = calls;
        self.cut(&mut answer);
        Act::Answer(Duration::ZERO, Some(life), Box::new(answer))
    }
}
