//! What a server says to `initialize`, and to credentials.

use super::*;

impl Serving<'_> {
    pub(super) fn initialize(&mut self, replica: String) -> Act {
        let is_handshake = self.seen.is_handshake();
        let refuse = self.host.faults.find(|fault| match fault {
            Fault::Refuse(refuse) => Some(refuse),
            _ => None,
        });
        if let Some(Refuse::Status(status)) = refuse {
            self.denied_attempt(status);
            return self.plain(status, "refused", None);
        }
        let lineage = self.seen.message["params"]["clientInfo"]["version"].as_str();
        let lineage = lineage.and_then(|it| it.parse().ok());
        let (principal, _) = self.seen.token().unwrap_or_default();
        let is_stateless = self.host.faults.has(Fault::Stateless);
        let serial = self.account.upstreams.len();
        let id = (!is_stateless).then(|| self.host.mint(self.random));
        let value = id.as_ref().map(|id| HeaderValue::from_str(id).unwrap());
        if let Some(value) = &value {
            // Whoever had this id has lost its session.
            for upstream in &mut self.account.upstreams {
                if upstream.host == self.host.number && upstream.id.as_ref() == Some(value) {
                    upstream.is_denied = true;
                }
            }
        }
        self.account.upstreams.push(Upstream {
            host: self.host.number,
            lineage,
            id: value.clone(),
            by_layer: is_handshake,
            delivered: None,
            is_initialized: false,
            is_accepted: false,
            is_published: false,
            made_with: self.seen.headers.clone(),
            is_denied: false,
            denied_since: None,
            is_excused: false,
            is_disturbed: is_handshake && self.account.busy_until >= tokio::time::Instant::now(),
        });
        let version = self.host.version;
        if let Some(id) = &id {
            let session = Session {
                serial,
                principal,
                life: Arc::default(),
                subscriptions: BTreeSet::new(),
                level: None,
                version,
                streams: 0,
                events: HashMap::new(),
                replica,
            };
            self.host.expire(id, Ending::Close);
            self.host.sessions.insert(id.clone(), session);
        }
        let rpc_id = self.seen.message["id"].clone();
        let result = json!({
            "protocolVersion": version,
            "capabilities": {
                "tools": {"listChanged": self.random.chance(50)},
                "logging": {},
                "resources": {"subscribe": true},
            },
            "serverInfo": {"name": "chaos", "version": "1"},
        });
        let mut message = json!({"jsonrpc": "2.0", "id": rpc_id, "result": result});
        match refuse {
            Some(Refuse::Rpc) => {
                message = json!({"jsonrpc": "2.0", "id": rpc_id, "error": {"code": -32603, "message": "no"}});
            }
            Some(Refuse::WrongId) => message["id"] = json!("another"),
            _ => {}
        }
        let is_event_stream = self.random.chance(60);
        let mut script = Vec::new();
        if is_event_stream && self.host.faults.has(Fault::Pings) {
            for ping in 0..self.random.below(30) {
                let ping = json!({"jsonrpc": "2.0", "id": format!("server-ping-{ping}"), "method": "ping"});
                script.push(self.event(None, &ping.to_string(), Vec::new()));
            }
        }
        match refuse {
            Some(Refuse::Garbage) => {
                script.push(Piece::Data(
                    Bytes::from_static(b"\xff\xfe{{{\r\n\r\n{}"),
                    Vec::new(),
                ));
            }
            Some(Refuse::Endless) => {
                for _ in 0..40 {
                    script.push(Piece::Burst(500));
                    script.push(Piece::Wait(Duration::from_millis(700)));
                }
            }
            Some(Refuse::Huge) => {
                let huge = Bytes::from(vec![b'x'; 64 * 1024]);
                script.extend((0..24).map(|_| Piece::Data(huge.clone(), Vec::new())));
            }
            _ if is_event_stream => script.push(self.event(None, &message.to_string(), Vec::new())),
            _ => script.push(Piece::Data(message.to_string().into(), Vec::new())),
        }
        let content_type = if is_event_stream {
            "text/event-stream"
        } else {
            "application/json"
        };
        let mut answer = self.answer(200, Some(content_type), script);
        if let Some(mut value) = value {
            value.set_sensitive(true);
            answer.headers_mut().insert(SESSION_ID, value);
        }
        self.cut(&mut answer);
        // Whether the caller gets it is seen when it is handed over.
        let life = id.map(|id| self.host.sessions[&id].life.clone());
        let life = life.filter(|_| refuse.is_none());
        Act::Answer(self.delay(), life, Box::new(answer))
    }

    /// Notes that the sender is told with this status, beyond doubt, that its session is no more. A 404
    /// may be about credentials.
    pub(super) fn deny_current(&mut self, status: u16) {
        let Some(serial) = self.serial() else { return };
        let upstream = &self.account.upstreams[serial];
        let has_credentials =
            upstream.made_with.get("authorization") == self.seen.headers.get("authorization");
        let is_proof = self.seen.is_ping()
            || (self.seen.method == Method::POST && (has_credentials || status != 404));
        if is_proof {
            self.account.denied(serial);
        }
    }

    /// A ping that is denied settles it, whatever is denied.
    pub(super) fn denied_ping(&mut self) {
        if let (true, Some(serial)) = (self.seen.is_ping(), self.serial()) {
            self.account.denied(serial);
        }
    }

    /// A handshake is denied: that says nothing of others' credentials (rule J1).
    pub(super) fn denied_attempt(&mut self, status: u16) {
        let lineage = match self.seen.is_handshake() {
            true => self.seen.message["params"]["clientInfo"]["version"]
                .as_str()
                .and_then(|it| it.parse().ok()),
            false => self
                .serial()
                .and_then(|serial| self.account.upstreams[serial].lineage),
        };
        if !matches!(status, 401 | 403) || !self.seen.is_layers() {
            return;
        }
        let credentials = self.seen.headers.get("authorization").cloned();
        self.account.denied_handshakes.extend(credentials.clone());
        if let Some(lineage) = lineage {
            self.account.lineages[lineage].attempts.denied = Some(credentials);
        }
    }
}
