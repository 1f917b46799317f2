//! The proxy as a program.

#![allow(dead_code, unreachable_pub)]

use std::{
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::OnceLock,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{Child, ChildStdout, Command},
    sync::watch,
    task::JoinHandle,
};

use testing::loopback::soon;

/// The program: cargo builds it for the proxy's own tests, and nobody does for those of others.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        option_env!("CARGO_BIN_EXE_mcp-session-proxy").map_or_else(build, PathBuf::from)
    })
}

fn build() -> PathBuf {
    let test = std::env::current_exe().expect("a path");
    let profile = test.ancestors().nth(2).expect("<target>/<profile>/deps");
    let mut build = std::process::Command::new(env!("CARGO"));
    // What cargo tells a test about its package would make build scripts run again.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if ["CARGO_PKG_", "CARGO_MANIFEST_"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
        {
            build.env_remove(&*name);
        }
    }
    build.args([
        "build",
        "--quiet",
        "--package",
        "proxy",
        "--features",
        "store",
    ]);
    build
        .arg("--target-dir")
        .arg(profile.parent().expect("a directory"));
    if profile.ends_with("release") {
        build.arg("--release");
    }
    assert!(
        build.status().is_ok_and(|status| status.success()),
        "cargo builds the proxy"
    );
    profile.join("mcp-session-proxy")
}

/// A running proxy. It is killed when this is dropped.
pub struct Proxy {
    pub url: String,
    /// What it said when it began to listen.
    pub says: String,
    child: Child,
    stdout: BufReader<ChildStdout>,
    log: watch::Receiver<String>,
    logging: JoinHandle<()>,
}

impl Proxy {
    /// Starts one, on a free port unless told otherwise, and waits until it listens.
    pub async fn start(upstream: &str, args: &[&str]) -> Self {
        Self::start_with(upstream, args, |_| {}).await
    }

    pub async fn start_with(
        upstream: &str,
        args: &[&str],
        set_up: impl FnOnce(&mut Command),
    ) -> Self {
        let mut command = Command::new(binary());
        command
            .args(["--upstream", upstream])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        if !args.contains(&"--listen") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        set_up(&mut command);
        let mut child = command.spawn().expect("the proxy");

        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (sender, log) = watch::channel(String::new());
        let logging = tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                sender.send_modify(|log| *log += &(line + "\n"));
            }
        });
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut says = String::new();
        let listens = stdout.read_line(&mut says);
        soon("the proxy listens", listens).await.expect("a line");
        let url = says
            .strip_prefix("listening on ")
            .and_then(|rest| rest.split_once(", "))
            .unwrap_or_else(|| panic!("{says:?}: {}", *log.borrow()))
            .0
            .to_owned();
        Self {
            url,
            says,
            child,
            stdout,
            log,
            logging,
        }
    }

    pub fn id(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// The lines of its log so far.
    pub fn log(&self) -> String {
        self.log.borrow().clone()
    }

    /// Waits for a line with `text` in its log.
    pub async fn logs(&mut self, text: &str) -> String {
        let log = soon(text, self.log.wait_for(|log| log.contains(text))).await;
        let log = log.expect("the proxy runs");
        log.lines()
            .find(|line| line.contains(text))
            .unwrap()
            .to_owned()
    }

    /// Waits until its log has `text` so many times.
    pub async fn logs_often(&mut self, text: &str, times: usize) {
        let often = |log: &String| log.matches(text).count() >= times;
        let log = soon(text, self.log.wait_for(often)).await;
        drop(log.expect("the proxy runs"));
    }

    pub fn signal(&self, signal: &str) {
        let kill = format!("kill -{signal} {}", self.id());
        let killed = std::process::Command::new("sh")
            .args(["-c", &kill])
            .status();
        assert!(killed.expect("a shell").success());
    }

    /// Waits for its end; gives its status, what it wrote to standard output after the first line,
    /// and its log.
    pub async fn ends(mut self) -> (ExitStatus, String, String) {
        let status = soon("the proxy ends", self.child.wait()).await;
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).await.expect("text");
        let _ = (&mut self.logging).await;
        (status.expect("a status"), rest, self.log())
    }
}

/// Runs the proxy to its end, which comes at once. Gives its status, output and log.
pub async fn run(args: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(binary())
        .args(args)
        .kill_on_drop(true)
        .output();
    let output = soon("the proxy ends", output).await.expect("the proxy");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}
