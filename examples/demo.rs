//! A real MCP server loses its sessions, and a real HTTP client notices nothing.
//!
//! Starts a server (rmcp with axum) on loopback, connects hyper-util's client with the layer around
//! it, and has a listening stream and a subscription open while the server forgets every session.
//! Prints each exchange on the wire, what the caller saw of it, and when.
//!
//! ```console
//! $ cargo run --example demo
//! $ cargo run --example demo -- --without-layer     # what the caller gets without it
//! $ cargo run --example demo --features tls -- --url https://mcp.example.com/mcp --header 'authorization: …'
//! ```
//!
//! Exits with 0 if the caller saw no error, with 1 if it saw one (`--without-layer` is to), and with
//! 2 if there was no session to begin with.

mod support;

use std::{
    io::IsTerminal,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, uri::Scheme};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use mcp_session_recovery::{Outcome, SessionRecoveryLayer};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    sync::{mpsc, watch},
    time::timeout,
};
use tower::Layer;

use support::{Answer, BoxError, Caller, Exchange, HttpClient, Messages, RESOURCE, Server, Wire};

const HELP: &str = "\
A real MCP server loses its sessions, and a real HTTP client notices nothing.

Usage: demo [--without-layer] [--url URL [--header HEADER]... [--tool NAME]]

  --without-layer   Leave the layer out, to see what the caller gets without it
  --url URL         Talk to this MCP server instead of the demo's own; it is you who makes it lose
                    its sessions
  --header HEADER   A header for every request to that server, as in 'authorization: Bearer …'
  --tool NAME       The tool of that server to call, without arguments. By default the server is
                    only pinged

Exits with 0 if the caller saw no error, with 1 if it saw one, and with 2 if there was no session to
begin with.";

#[derive(Default)]
struct Args {
    without_layer: bool,
    url: Option<Uri>,
    headers: Vec<(HeaderName, HeaderValue)>,
    tool: Option<String>,
}

impl Args {
    fn parse() -> Result<Self, lexopt::Error> {
        use lexopt::prelude::{Long, Short, ValueExt};

        let mut args = Self::default();
        let mut parser = lexopt::Parser::from_env();
        while let Some(arg) = parser.next()? {
            match arg {
                Long("without-layer") => args.without_layer = true,
                Long("url") => args.url = Some(parser.value()?.parse()?),
                Long("header") => args.headers.push(parser.value()?.parse_with(parse_header)?),
                Long("tool") => args.tool = Some(parser.value()?.string()?),
                Long("help") | Short('h') => {
                    println!("{HELP}");
                    std::process::exit(0);
                }
                _ => return Err(arg.unexpected()),
            }
        }
        match args.url.is_none() && (args.tool.is_some() || !args.headers.is_empty()) {
            true => Err("--header and --tool are for a server of yours: --url".into()),
            false => Ok(args),
        }
    }
}

fn parse_header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("there is no colon in it")?;
    let name = name.trim().parse().map_err(|_| "bad header name")?;
    let mut value = HeaderValue::from_str(value.trim()).map_err(|_| "bad header value")?;
    value.set_sensitive(true);
    Ok((name, value))
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = match Args::parse() {
        Ok(args) => args,
        Err(error) => {
            eprintln!("{error}\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    let show = Arc::new(Show::new(!args.without_layer));
    match demo(args, &show).await {
        Ok(()) => show.end(),
        Err(error) => {
            let causes = std::iter::successors(error.source(), |&cause| cause.source());
            let causes: String = causes.map(|cause| format!(": {cause}")).collect();
            eprintln!("there is no session to begin with: {error}{causes}");
            ExitCode::from(2)
        }
    }
}

async fn demo(args: Args, show: &Arc<Show>) -> Result<(), BoxError> {
    let mut tcp = HttpConnector::new();
    tcp.set_nodelay(true);
    #[cfg(feature = "tls")]
    let connector = {
        tcp.enforce_http(false);
        hyper_rustls::HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(rustls::crypto::ring::default_provider())?
            .https_or_http()
            .enable_http1()
            .enable_http2()
            .wrap_connector(tcp)
    };
    #[cfg(not(feature = "tls"))]
    let connector = tcp;
    let shown = show.clone();
    let wire = Wire::new(move |exchange| shown.exchange(&exchange));
    let client = wire.layer(Client::builder(TokioExecutor::new()).build(connector));

    if args.without_layer {
        return run(&args, show, client).await;
    }
    // That is all: the layer goes around whatever sends the requests.
    let shown = show.clone();
    let layer =
        SessionRecoveryLayer::new().on_recovery(move |event| shown.recovery(event.result()));
    run(&args, show, layer.layer(client)).await
}

async fn run<C: HttpClient>(args: &Args, show: &Arc<Show>, client: C) -> Result<(), BoxError> {
    match &args.url {
        None => with_own_server(show, client).await,
        Some(url) => with_your_server(args, url, show, client).await,
    }
}

async fn with_own_server<C: HttpClient>(show: &Arc<Show>, client: C) -> Result<(), BoxError> {
    let server = Server::start().await?;
    show.title(&format!("rmcp serves MCP at {}", server.url()));

    show.scene("The caller connects, opens a listening stream, and subscribes to a resource.");
    let caller = Caller::connect(client, server.url()).await?;
    let mut notifications = listen(show, &caller).await;
    let subscribed = caller.ask("resources/subscribe", json!({"uri": RESOURCE}));
    subscribed.await?.result()?;

    show.scene("It calls a tool.");
    call(show, &caller, Some("count")).await;

    show.scene("The server forgets every session. The caller calls the tool again.");
    server.forget_sessions().await;
    call(show, &caller, Some("count")).await;
    show.stream_moves_on().await;

    show.scene("The resource changes on the server.");
    let changed = Instant::now();
    server.change_resource().await;
    match timeout(Duration::from_secs(2), notifications.recv()).await {
        Ok(Some(notification)) => {
            let what = Show::notification(&notification);
            show.sees(
                GREEN,
                &format!("{what} in the same listening stream"),
                changed,
            );
        }
        _ => show.error("nothing in the listening stream", changed),
    }

    show.scene("The caller leaves.");
    drop(notifications);
    // It has what it wanted; what the server says to that is no matter.
    let _ = caller.leave().await;
    Ok(())
}

async fn with_your_server<C: HttpClient>(
    args: &Args,
    url: &Uri,
    show: &Arc<Show>,
    client: C,
) -> Result<(), BoxError> {
    if !cfg!(feature = "tls") && url.scheme() == Some(&Scheme::HTTPS) {
        return Err("https is built in with `cargo run --example demo --features tls`".into());
    }
    let host = url.host().ok_or("--url needs a host")?;
    let port = url.port().map(|it| format!(":{it}")).unwrap_or_default();
    show.title(&format!("your server is at {host}{port}"));

    show.scene("The caller connects, and opens a listening stream.");
    let headers: HeaderMap = args.headers.iter().cloned().collect();
    let caller = Caller::connect_with(client, &url.to_string(), headers).await?;
    let mut notifications = listen(show, &caller).await;
    if caller.server()["capabilities"]["resources"]["subscribe"] == true {
        subscribe_to_something(&caller).await;
    }

    let tool = args.tool.as_deref();
    match tool {
        Some(tool) => show.scene(&format!("It calls {tool}.")),
        None => show.scene("It pings the server."),
    }
    call(show, &caller, tool).await;

    show.scene("Now it is up to you: make the server lose its sessions (restart it, say).");
    show.say("Enter lets the caller ask again, Ctrl-D lets it leave");
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    loop {
        tokio::select! {
            Some(notification) = notifications.recv() => {
                let what = Show::notification(&notification);
                show.say(&format!("{what} arrives in the listening stream"));
            }
            line = lines.next_line() => match line {
                Ok(Some(_)) => {
                    call(show, &caller, tool).await;
                    // A restart breaks it; every client opens another one then.
                    if notifications.is_closed() {
                        notifications = listen(show, &caller).await;
                    }
                }
                _ => break,
            },
        }
    }

    show.scene("The caller leaves.");
    drop(notifications);
    // It has what it wanted; what the server says to that is no matter.
    let _ = caller.leave().await;
    Ok(())
}

/// Opens the listening stream and gives what arrives in it.
async fn listen<C: HttpClient>(
    show: &Arc<Show>,
    caller: &Caller<C>,
) -> mpsc::UnboundedReceiver<Value> {
    let (arrived, notifications) = mpsc::unbounded_channel();
    match caller.listen().await {
        Err(error) => show.error(&error.to_string(), Instant::now()),
        Ok(response) if !response.status().is_success() => {
            show.say("the server opens no listening stream");
        }
        Ok(response) => {
            let mut messages = Messages::new(response.into_body());
            let show = show.clone();
            tokio::spawn(async move {
                while let Ok(Some(message)) = messages.next().await {
                    if arrived.send(message).is_err() {
                        return;
                    }
                }
                if !arrived.is_closed() {
                    show.say("the listening stream has ended");
                }
            });
        }
    }
    notifications
}

/// Calls a tool, or pings, and shows what the caller gets.
async fn call<C: HttpClient>(show: &Show, caller: &Caller<C>, tool: Option<&str>) {
    let started = Instant::now();
    let answer = match tool {
        Some(tool) => caller.call(tool, json!({})).await,
        None => caller.ask("ping", json!({})).await,
    };
    match answer {
        Ok(answer) => show.answer(&answer, started),
        Err(error) => show.error(&error.to_string(), started),
    }
}

async fn subscribe_to_something<C: HttpClient>(caller: &Caller<C>) {
    if let Ok(answer) = caller.ask("resources/list", json!({})).await {
        let uri = answer.result().map(|it| it["resources"][0]["uri"].clone());
        if let Ok(uri @ Value::String(_)) = uri {
            // Refused or not, the demo goes on.
            let _ = caller
                .ask("resources/subscribe", json!({ "uri": uri }))
                .await;
        }
    }
}

/// Prints what happens, and counts it for the last line.
struct Show {
    started: Instant,
    colors: bool,
    has_layer: bool,
    handshakes: AtomicUsize,
    replays: AtomicUsize,
    errors: AtomicUsize,
    /// How many listening streams were opened on the wire.
    streams: watch::Sender<usize>,
}

const BOLD: u8 = 1;
const DIM: u8 = 2;
const RED: u8 = 31;
const GREEN: u8 = 32;

impl Show {
    fn new(has_layer: bool) -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|it| !it.is_empty());
        Self {
            started: Instant::now(),
            colors: std::io::stdout().is_terminal() && !plain,
            has_layer,
            handshakes: AtomicUsize::new(0),
            replays: AtomicUsize::new(0),
            errors: AtomicUsize::new(0),
            streams: watch::Sender::new(0),
        }
    }

    fn paint(&self, color: u8, text: &str) -> String {
        match self.colors {
            true => format!("\x1b[{color}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }

    fn title(&self, server: &str) {
        let layer = match self.has_layer {
            true => "with the session layer around it",
            false => "with no session layer around it",
        };
        println!("{server}; the client is hyper's, {layer}.");
    }

    fn scene(&self, text: &str) {
        println!("\n{}", self.paint(BOLD, text));
    }

    fn exchange(&self, exchange: &Exchange) {
        let succeeded = exchange.status.is_some_and(|status| status.is_success());
        let color = if succeeded { DIM } else { RED };
        let time = self.started.elapsed();
        println!(
            "{:>9.1} ms  {}",
            time.as_secs_f64() * 1000.0,
            self.paint(color, &exchange.line())
        );
        if succeeded && exchange.method == Method::GET {
            self.streams.send_modify(|streams| *streams += 1);
        }
    }

    fn say(&self, text: &str) {
        println!("              {text}");
    }

    fn sees(&self, color: u8, what: &str, since: Instant) {
        let took = since.elapsed().as_secs_f64() * 1000.0;
        let what = self.paint(color, what);
        self.say(&format!("the caller gets {what}, after {took:.1} ms"));
    }

    fn answer(&self, answer: &Answer, since: Instant) {
        match (answer.result(), answer.text()) {
            (Err(error), _) => self.error(&error, since),
            (_, Ok(text)) => self.sees(GREEN, &shortened(format!("{text:?}")), since),
            (Ok(result), Err(_)) => self.sees(GREEN, &shortened(result.to_string()), since),
        }
        if let Some(recovery) = answer.recovery {
            let replayed = recovery.outcome() == Outcome::Replayed;
            self.replays.fetch_add(usize::from(replayed), Relaxed);
        }
    }

    fn notification(notification: &Value) -> String {
        let method = notification["method"].as_str().unwrap_or("a message");
        match notification["params"]["uri"].as_str() {
            Some(uri) => format!("{method} ({uri})"),
            None => method.to_owned(),
        }
    }

    fn error(&self, error: &str, since: Instant) {
        self.errors.fetch_add(1, Relaxed);
        self.sees(RED, error, since);
    }

    fn recovery(&self, outcome: Result<(), mcp_session_recovery::Failure>) {
        self.handshakes
            .fetch_add(usize::from(outcome.is_ok()), Relaxed);
    }

    /// Waits for the layer to open the listening stream in the new session.
    async fn stream_moves_on(&self) {
        if self.has_layer {
            let mut streams = self.streams.subscribe();
            let moved = streams.wait_for(|streams| *streams > 1);
            // If it does not, the caller will miss its notification.
            let _ = timeout(Duration::from_secs(5), moved).await;
        }
    }

    fn end(&self) -> ExitCode {
        let [handshakes, replays, errors] =
            [&self.handshakes, &self.replays, &self.errors].map(|count| count.load(Relaxed));
        let count = |count: usize, what: &str| match count {
            1 => format!("1 {what}"),
            count => format!("{count} {what}s"),
        };
        let line = format!(
            "{} and {} by the layer; the caller saw {}.",
            count(handshakes, "handshake"),
            count(replays, "replay"),
            count(errors, "error").replace("0 errors", "no error"),
        );
        let color = if errors == 0 { GREEN } else { RED };
        println!("\n{}", self.paint(color, &line));
        ExitCode::from(u8::from(errors > 0))
    }
}

/// An answer may be long; this is about how it came.
fn shortened(text: String) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
