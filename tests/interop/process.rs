//! Child processes: servers that are killed and come back, clients that are told what to do.

use std::{
    net::TcpListener,
    process::Stdio,
    sync::{
        Mutex,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::watch,
    task::JoinHandle,
    time::timeout,
};

use testing::loopback::soon;

/// One of the programs in this directory, or of [`crate::rust`].
#[derive(Debug, Clone, Copy)]
pub struct Program {
    pub script: &'static str,
    pub flags: &'static [&'static str],
}

impl Program {
    pub const fn new(script: &'static str, flags: &'static [&'static str]) -> Self {
        Self { script, flags }
    }

    /// What it is called in the table.
    pub fn name(&self) -> String {
        let file = self.script.rsplit('/').next().unwrap_or_default();
        let name = file.split('.').next().unwrap_or_default();
        [&[name], self.flags].concat().join(" ")
    }

    fn spawn(&self, kind: &str, args: &[&str]) -> Child {
        let mut command = if self.script == "rmcp" {
            let mut command = Command::new(std::env::current_exe().expect("a path"));
            command
                .args(["rmcp_program", "--exact", "--ignored", "--nocapture"])
                .env("INTEROP_RMCP", [&[kind], args].concat().join(" "));
            command
        } else {
            let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/run"));
            command.arg(self.script).args(args).args(self.flags);
            command
        };
        let debug = std::env::var_os("INTEROP_DEBUG").is_some();
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(if debug {
                Stdio::inherit()
            } else {
                Stdio::null()
            })
            // If it is the driver that is killed, they end with their standard input.
            .kill_on_drop(true)
            .spawn()
            .expect("tests/interop/install has been run")
    }
}

/// A free port that no outgoing connection is given between a kill and the restart.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    static TAKEN: Mutex<()> = Mutex::new(());
    let _one_at_a_time = TAKEN.lock().unwrap();
    let first = std::process::id() as u16 % 50 * 200;
    loop {
        let port = 20_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

type Output = Lines<BufReader<ChildStdout>>;

/// A server on a port of its own, and its replacement, which is loaded already and waits for the
/// port: a restart takes no longer than it has to.
pub struct Server {
    program: Program,
    port: u16,
    running: Option<Child>,
    standby: (Child, Output),
}

impl Server {
    pub async fn start(program: Program) -> Self {
        let port = free_port();
        let mut server = Self {
            program,
            port,
            running: None,
            standby: standby(program, port),
        };
        server.restart().await;
        server
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/mcp", self.port)
    }

    /// SIGKILL, once its replacement is ready.
    pub async fn kill(&mut self) {
        let Some(mut running) = self.running.take() else {
            return;
        };
        says(&mut self.standby.1, "standing by").await;
        let killed = soon("the server dies", running.kill()).await;
        killed.expect("a kill");
    }

    /// A new process on the same port.
    pub async fn restart(&mut self) {
        self.kill().await;
        let (child, output) = &mut self.standby;
        let input = child.stdin.as_mut().expect("piped");
        input.write_all(b"\n").await.expect("it waits");
        says(output, "listening on ").await;
        let next = standby(self.program, self.port);
        let (child, mut output) = std::mem::replace(&mut self.standby, next);
        // Nobody reads what else it says, but it may say it.
        tokio::spawn(async move { while let Ok(Some(_)) = output.next_line().await {} });
        self.running = Some(child);
    }
}

fn standby(program: Program, port: u16) -> (Child, Output) {
    let mut child = program.spawn("server", &["--port", &port.to_string(), "--standby"]);
    let output = child.stdout.take().expect("piped");
    (child, BufReader::new(output).lines())
}

/// Waits for a line.
async fn says(output: &mut Output, line: &str) {
    soon(line, async {
        while let Some(said) = output.next_line().await.expect("text") {
            if said.starts_with(line) {
                return;
            }
        }
        panic!("it has ended: is tests/interop/install done? INTEROP_DEBUG=1 shows what it says");
    })
    .await;
}

/// A client program and what its user has seen so far.
pub struct Client {
    _child: Child,
    input: ChildStdin,
    seen: watch::Receiver<Vec<Value>>,
    reading: JoinHandle<()>,
    last_id: u64,
}

impl Client {
    pub async fn connect(program: Program, url: &str) -> Self {
        let mut child = program.spawn("client", &[url]);
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let (sender, seen) = watch::channel(Vec::new());
        let reading = tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                if let Ok(event) = serde_json::from_str::<Value>(&line) {
                    sender.send_modify(|seen| seen.push(event));
                }
            }
        });
        let mut client = Self {
            input: child.stdin.take().expect("piped"),
            _child: child,
            seen,
            reading,
            last_id: 0,
        };
        let connected = client.sees(Duration::from_secs(60), |event| {
            event["event"] == "connected"
        });
        assert!(connected.await.is_some(), "{:?}", client.seen());
        client
    }

    /// Everything that it has seen.
    pub fn seen(&self) -> Vec<Value> {
        self.seen.borrow().clone()
    }

    /// Waits until it sees, or has seen, something.
    pub async fn sees(
        &mut self,
        patience: Duration,
        what: impl Fn(&Value) -> bool,
    ) -> Option<Value> {
        let seen = self.seen.wait_for(|seen| seen.iter().any(&what));
        let seen = timeout(patience, seen).await.ok()?.ok()?;
        seen.iter().find(|event| what(event)).cloned()
    }

    /// Gives a command; its result is then seen with this id.
    pub async fn does(&mut self, mut command: Value) -> u64 {
        self.last_id += 1;
        command["id"] = json!(self.last_id);
        // It may have crashed, which then is seen.
        let _ = self
            .input
            .write_all(format!("{command}\n").as_bytes())
            .await;
        self.last_id
    }

    /// What came of a command; `None` if nothing has in time.
    pub async fn outcome(&mut self, id: u64, patience: Duration) -> Option<Value> {
        let is_outcome = |event: &Value| {
            let ends = event["event"] == "result" || event["event"] == "error";
            ends && (event["id"] == id || event["id"].is_null())
        };
        self.sees(patience, is_outcome).await
    }

    pub async fn call(&mut self, tool: &str, args: Value, patience: Duration) -> Option<Value> {
        let id = self
            .does(json!({"do": "call", "tool": tool, "args": args}))
            .await;
        self.outcome(id, patience).await
    }

    /// Whether it has crashed.
    pub fn has_ended(&self) -> bool {
        self.reading.is_finished()
    }
}
