//! What a loss makes of streams, and how the caller comes back for them.

use super::*;

impl Conversation {
    /// What a stream that the server ends comes to.
    pub(super) fn note_end(&mut self, at: usize, ends: Ends) {
        let epoch = self.epoch;
        let one = &mut self.open[at];
        one.ends = Some(match one.origin {
            Some(Origin::Call(call)) => {
                let call = &mut self.origins[call];
                let waiting = call.waiting();
                if one.is_done || waiting.is_empty() || !one.plain().last_id.is_empty() {
                    ends
                } else {
                    call.give_up();
                    Ends::Lost(waiting, "stream_ended")
                }
            }
            Some(Origin::Listening(..)) if one.epoch != epoch => Ends::Clean,
            _ => ends,
        });
    }

    /// Whether a listening stream has to be where the session is.
    pub(super) fn leaves(&self, at: usize) -> bool {
        let one = &self.open[at];
        matches!(one.origin, Some(Origin::Listening(..)))
            && one.ends.is_none()
            && one.epoch != self.epoch
            && !one.plain().is_in_event
    }

    pub(super) fn note_move(&mut self, at: usize) {
        let script = self.script(&[]);
        self.next_listening += 1;
        let number = self.gets.count() - 1;
        let lost = self.take_lost();
        let one = &mut self.open[at];
        assert_ne!(one.feed.1, number, "it was opened anew");
        let end_of_line = Plain::read(one.passed(), "").end_of_line;
        one.before = [one.expected(), end_of_line.into(), lost].concat();
        one.sent.clear();
        one.read = 0;
        one.resumed.clear();
        one.goes_on = true;
        one.epoch = self.epoch;
        one.origin = Some(Origin::Listening(self.next_listening, self.epoch));
        one.script = script;
        one.feed = (Feeds::Gets, number);
    }

    /// The server forgets the session, and a request finds it out.
    pub(super) async fn lose(&mut self, by: usize) {
        self.scene.server.restart();
        self.epoch += 1;
        match by {
            0 => self.call().await,
            1 => self.accept().await,
            _ => self.scene.post_ping().await,
        }
        settle().await;
        for at in 0..self.open.len() {
            if self.leaves(at) {
                self.note_move(at);
            }
        }
    }

    /// The time for what was left behind is over.
    pub(super) async fn orphan(&mut self) {
        advance(Duration::from_secs(31)).await;
        settle().await;
        let epoch = self.epoch;
        for one in &mut self.open {
            if one.ends.is_some() || one.epoch == epoch {
                continue;
            }
            match one.origin {
                Some(Origin::Listening(..)) => one.ends = Some(Ends::Clean),
                Some(Origin::Call(call)) if !one.is_done => {
                    let waiting = self.origins[call].waiting();
                    if !waiting.is_empty() {
                        self.origins[call].give_up();
                        one.ends = Some(Ends::Lost(waiting, "session_expired"));
                    }
                }
                _ => {}
            }
        }
    }

    pub(super) fn is_listening(&self) -> bool {
        let open = self.open.iter().filter(|one| one.ends.is_none());
        let mut origins = open.filter_map(|one| one.origin);
        origins.any(|origin| matches!(origin, Origin::Listening(..)))
    }

    /// The stream that an id means, and how many answers came before it.
    pub(super) fn find(&self, id: &str) -> Option<(Origin, usize)> {
        let users = self.log.iter().rev().filter_map(|(origin, ids)| {
            let (_, answered) = ids.iter().rev().find(|(of, _)| of == id)?;
            Some((*origin, *answered))
        });
        let mut users: Vec<_> = users.collect();
        users.sort_by_key(|(origin, _)| match origin {
            Origin::Call(call) if !self.origins[*call].waiting().is_empty() => 0,
            Origin::Listening(..) => 1,
            Origin::Call(_) => 2,
        });
        users.first().copied()
    }

    /// The caller resumes from an id; from an empty one, it does not.
    pub(super) async fn resume(&mut self, id: &str) {
        let found = self.find(id);
        let is_open = |of: Origin| {
            let mut open = self.open.iter().filter(|one| one.ends.is_none());
            open.any(|one| one.origin == Some(of))
        };
        let listens = id.is_empty() || !matches!(found, Some((Origin::Call(_), _)));
        if listens && self.is_listening() {
            return;
        }
        let origin = match found {
            _ if id.is_empty() => None,
            Some((Origin::Call(call), answered)) if self.origins[call].epoch != self.epoch => {
                return self.resume_lost(id, call, answered).await;
            }
            // A client resumes once it has lost the stream.
            Some((origin @ Origin::Call(_), _)) if is_open(origin) => return,
            Some((Origin::Listening(_, epoch), _)) if epoch != self.epoch => None,
            Some((origin, _)) => Some(origin),
            None => None,
        };
        let stream = self.scene.open(self.get(id)).await;
        assert_eq!(stream.head.status, 200, "{id:?}");
        let asked = self.scene.server.last("GET");
        let passes = origin.is_some() || found.is_none() || id.is_empty();
        assert_eq!(asked.headers.contains_key(LAST_EVENT_ID), passes, "{id:?}");
        let origin = match (origin, listens) {
            (Some(Origin::Call(call)), _) => {
                let (_, answered) = found.unwrap_or((Origin::Call(call), 0));
                self.origins[call].answered.truncate(answered);
                origin
            }
            (None, true) => {
                self.next_listening += 1;
                Some(Origin::Listening(self.next_listening, self.epoch))
            }
            (origin, _) => origin,
        };
        let resumed = if passes { id } else { "" };
        let feed = (Feeds::Gets, self.gets.count() - 1);
        self.push(stream, origin, resumed, feed).await;
    }

    pub(super) async fn resume_lost(&mut self, id: &str, call: usize, answered: usize) {
        let gets = self.scene.server.count("GET");
        let mut stream = self.scene.open(self.get(id)).await;
        stream.read_to_end().await;
        let lost = self.origins[call].since(answered);
        self.origins[call].give_up();
        let errors: Vec<_> = lost
            .iter()
            .map(|id| lost_(*id, "session_expired"))
            .collect();
        assert_eq!(stream.messages(), errors, "{id:?}");
        assert_eq!(stream.outcome(), Some(Outcome::AnswerLost));
        assert_eq!(self.scene.server.count("GET"), gets);
    }

    pub(super) fn get(&self, id: &str) -> http::Request<CallerBody> {
        let mut request = get(&self.scene.session, None);
        let id = http::HeaderValue::from_bytes(id.as_bytes()).expect("a header's value");
        request.headers_mut().insert(LAST_EVENT_ID, id);
        request
    }
}
