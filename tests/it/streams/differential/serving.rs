//! What the server and the caller do while all is well.

use super::*;

impl Conversation {
    /// What a server may send in a stream that is to answer these.
    pub(super) fn script(&mut self, requests: &[u64]) -> Vec<u8> {
        let numbers = &mut self.numbers;
        let newline = numbers.one_of(&["\n", "\n", "\r\n", "\r"]);
        let mut text = String::new();
        if numbers.is(4) {
            text.push('\u{feff}');
        }
        if numbers.is(3) {
            text += &format!("id: {}\ndata: \n\n", numbers.one_of(&IDS));
        }
        let mut left = requests.to_vec();
        for _ in 0..numbers.below(8) {
            let id = format!("id: {}\n", numbers.one_of(&IDS));
            let request = match left.len() {
                0 => 900 + numbers.below(2) as u64,
                most => left[numbers.below(most)],
            };
            text += &match numbers.below(16) {
                0..3 => {
                    left.retain(|id| *id != request);
                    let name = numbers.one_of(&["id", "id", "id", "\\u0069d"]);
                    let member = numbers.one_of(&["result", "result", "error", "r\\u0065sult"]);
                    let number = numbers.one_of(&["", "", ".0", "e0"]);
                    let data = format!(r#"{{"{name}":{request}{number},"{member}":{{"a":"\n"}}}}"#);
                    let data = match numbers.below(6) {
                        0 => data.replace(',', ",\ndata:"),
                        1 => format!("[{data},{{\"id\":901,\"result\":0}}]"),
                        _ => data,
                    };
                    let kind = numbers.one_of(&["", "event: message\n", "event: message\n"]);
                    match numbers.below(3) {
                        0 => format!("{kind}{id}data: {data}\n\n"),
                        1 => format!("{kind}data: {data}\n{id}\n"),
                        _ => format!("data: {data}\n{kind}\n"),
                    }
                }
                3 => format!("event: other\ndata: {{\"id\":{request},\"result\":{{}}}}\n\n"),
                4 => format!(
                    "data: {{\"id\":{request},\"method\":\"a\",\"params\":{{\"result\":0}}}}\n\n"
                ),
                5 => format!("data: {{\"id\":\"{request}\",\"result\":{{}}}}\n\n"),
                6 => format!("data: {{\"id\":{request},\"result\":\n\n"),
                7 => ": comment\n".to_owned(),
                8 => ": comment\n\n".to_owned(),
                9 => "retry: 5\n".to_owned(),
                10 => format!("{id}\n"),
                11 => format!("{id}id: nul\0\ndata: x\n\n"),
                12 => "id\ndata: x\n\n".to_owned(),
                13 => format!("id: 7\n{id}data: x\n\n"),
                14 if numbers.is(150) => {
                    let filler = "i".repeat((1 << 20) + 5000);
                    left.retain(|id| *id != request);
                    format!("data: {{\"id\":{request},\"result\":\"{filler}\"}}\n{id}\n")
                }
                15 if numbers.is(150) => {
                    let filler = "d".repeat((1 << 20) + 5000);
                    format!(
                        "{id}data: {{\"method\":\"a\",\"params\":\"{filler}\",\"id\":{request}}}\n\n"
                    )
                }
                _ => "data: {\"method\":\"b\"}\n\n".to_owned(),
            };
        }
        text.replace('\n', newline).into_bytes()
    }

    pub(super) async fn push(
        &mut self,
        stream: Stream,
        origin: Option<Origin>,
        resumed: &str,
        feed: (Feeds, usize),
    ) {
        let requests = match origin {
            Some(Origin::Call(call)) => self.origins[call].requests.clone(),
            _ => Vec::new(),
        };
        let script = self.script(&requests);
        // What the layer has to say comes before what the server has.
        settle().await;
        let before = match origin {
            Some(Origin::Listening(..)) => self.take_lost(),
            _ => Vec::new(),
        };
        self.open.push(Open {
            stream,
            origin,
            epoch: self.epoch,
            resumed: resumed.to_owned(),
            feed,
            script,
            sent: Vec::new(),
            read: 0,
            is_done: requests.is_empty(),
            goes_on: !before.is_empty(),
            before,
            ends: None,
        });
    }

    pub(super) async fn call(&mut self) {
        let most = self.numbers.one_of(&[1, 1, 1, 2, 3]);
        let requests: Vec<_> = (0..most).map(|n| self.next_request + n).collect();
        self.next_request += most;
        let message = match &requests[..] {
            [id] => tool_call(*id),
            ids => ids.iter().map(|id| tool_call(*id)).collect(),
        };
        let stream = self
            .scene
            .open(post(Some(&self.scene.session), &message))
            .await;
        assert_eq!(stream.head.status, 200);
        self.executed += 1;
        self.origins.push(Call {
            epoch: self.epoch,
            requests,
            answered: Vec::new(),
        });
        let origin = Origin::Call(self.origins.len() - 1);
        let feed = (Feeds::Calls, self.calls.count() - 1);
        self.push(stream, Some(origin), "", feed).await;
    }

    /// A request that is accepted, to be answered on the listening stream.
    pub(super) async fn accept(&mut self) {
        let request = self.next_request;
        self.next_request += 1;
        let message = json!({"jsonrpc": "2.0", "id": request, "method": LATER});
        let answer = self.scene.post(&message).await;
        assert_eq!((answer.status, answer.text()), (202, ""));
        self.accepted.push(Accepted {
            epoch: self.epoch,
            request,
            is_over: false,
        });
    }

    /// The server is going to answer one of them, on a listening stream or where nobody expects it.
    pub(super) fn answer_accepted(&mut self) {
        let waiting = self.accepted.iter().filter(|it| !it.is_over);
        let waiting: Vec<_> = waiting.map(|it| it.request).collect();
        let open = self.open.iter().enumerate();
        let open = open.filter(|(_, one)| one.ends.is_none());
        let open: Vec<_> = open.map(|(at, _)| at).collect();
        if waiting.is_empty() || open.is_empty() {
            return;
        }
        let (request, at) = (self.numbers.one_of(&waiting), self.numbers.one_of(&open));
        let numbers = &mut self.numbers;
        let number = numbers.one_of(&["", "", ".0", "e0"]);
        let member = numbers.one_of(&["result", "result", "error", "method"]);
        let data = format!(r#"{{"id":{request}{number},"{member}":"m"}}"#);
        let data = match numbers.below(5) {
            0 => data.replace(',', ",\ndata:"),
            1 => format!("[{data},{{\"id\":901,\"result\":0}}]"),
            _ => data,
        };
        let fields = numbers.one_of(&["", "", "event: message\n", "id: 1\n", "event: other\n"]);
        let newline = numbers.one_of(&["\n", "\n", "\r\n", "\r"]);
        let event = format!("{fields}data: {data}\n\n").replace('\n', newline);
        let one = &mut self.open[at];
        let is_between = !one.plain().is_in_event && one.plain().end_of_line.is_empty();
        let place = if is_between { 0 } else { one.script.len() };
        one.script.splice(place..place, event.into_bytes());
    }

    /// The errors for what was accepted in epochs that are gone, which a listening stream begins
    /// with.
    pub(super) fn take_lost(&mut self) -> Vec<u8> {
        let mut text = String::new();
        for one in &mut self.accepted {
            if !one.is_over && one.epoch < self.epoch {
                one.is_over = true;
                text += &lost_event(one.request);
            }
        }
        text.into_bytes()
    }

    pub(super) async fn listen(&mut self) {
        let stream = self.scene.listen().await;
        assert_eq!(stream.head.status, 200);
        self.next_listening += 1;
        let origin = Origin::Listening(self.next_listening, self.epoch);
        let feed = (Feeds::Gets, self.gets.count() - 1);
        self.push(stream, Some(origin), "", feed).await;
    }

    pub(super) fn fed(&self, feeds: Feeds) -> &Fed {
        match feeds {
            Feeds::Calls => &self.calls,
            Feeds::Gets => &self.gets,
        }
    }

    /// More of a stream, or its end.
    pub(super) async fn feed(&mut self, at: usize) {
        let (feeds, number) = self.open[at].feed;
        let left = self.open[at].script.len();
        if left == 0 || self.numbers.is(12) {
            let ends = self.numbers.one_of(&[true, false]);
            match ends {
                true => self.fed(feeds).end(number),
                false => self.fed(feeds).error(number),
            }
            settle().await;
            return self.note_end(at, if ends { Ends::Clean } else { Ends::Broken });
        }
        let most = self.numbers.one_of(&[1, 8, 40, left, left]);
        let size = self.numbers.below(most.min(left) + 1);
        let chunk: Vec<_> = self.open[at].script.drain(..size).collect();
        self.fed(feeds).data(number, &chunk);
        settle().await;
        self.open[at].sent.extend(chunk);
        self.account(at);
        if self.leaves(at) {
            self.note_move(at);
        }
    }
}
