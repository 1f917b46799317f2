//! The gateway of the examples, two replicas of it over one `redis-server` (rules A4, N3, N4, N6).

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
    time::Duration,
};

use testing::{
    loopback::{Loopback, fetch, http1, soon, to},
    mocked::echoed,
    *,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command as AsyncCommand},
    time::sleep,
};

use crate::{process::free_port, stored::Redis};

fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let test = std::env::current_exe().expect("a path");
        let profile = test.ancestors().nth(2).expect("<target>/<profile>/deps");
        let mut build = Command::new(env!("CARGO"));
        build
            .args(["build", "--quiet", "--package", "examples"])
            .args(["--example", "gateway", "--features", "gateway,store"])
            .arg("--target-dir")
            .arg(profile.parent().expect("a directory"));
        if profile.ends_with("release") {
            build.arg("--release");
        }
        assert!(
            build.status().is_ok_and(|status| status.success()),
            "cargo builds the gateway"
        );
        profile.join("examples/gateway")
    })
}

/// A running gateway. It is killed when this is dropped.
struct Gateway {
    url: String,
    child: Child,
}

impl Gateway {
    async fn start(listen: &str, upstream: &str, redis: &Redis) -> Self {
        let mut child = AsyncCommand::new(binary())
            .args(["--upstream", upstream, "--listen", listen])
            .args(["--store", &redis.url()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the gateway");
        let mut says = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let listens = stdout.read_line(&mut says);
        soon("the gateway listens", listens).await.expect("a line");
        let url = says.trim().strip_prefix("listening on ");
        let url = url.unwrap_or_else(|| panic!("{says:?}")).to_owned();
        Self { url, child }
    }

    /// Ends as it is asked to.
    async fn ends(mut self) {
        let pid = self.child.id().expect("it runs").to_string();
        let killed = Command::new("kill").args(["-TERM", &pid]).status();
        assert!(killed.expect("kill").success());
        let status = soon("the gateway ends", self.child.wait()).await;
        assert!(status.expect("a status").success());
    }

    async fn asked(&self, user: &str, mut request: http::Request<CallerBody>) -> Answer {
        let token = format!("Bearer gateway-{user}").parse().unwrap();
        request.headers_mut().insert("authorization", token);
        fetch(&http1(), to(&self.url, request)).await
    }

    async fn calls(&self, user: &str, session: &str, call: u64) {
        let answer = self
            .asked(user, post(Some(session), &tool_call(call)))
            .await;
        assert_eq!(echoed(&answer), call);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs redis-server: tests/stores/install"]
async fn n3_a4_two_replicas_of_the_gateway_share_the_sessions_of_their_users() {
    // Given two replicas, and a user with a session that one of them has recorded,
    let redis = Redis::start().await;
    let server = Server::new(Profile::TypeScript);
    let loopback = Loopback::serve(server.service()).await;
    let upstream = loopback.url();
    let listen = format!("127.0.0.1:{}", free_port());
    let one = Gateway::start(&listen, &upstream, &redis).await;
    let other = Gateway::start("127.0.0.1:0", &upstream, &redis).await;
    let opened = one.asked("ada", post(None, &initialize())).await;
    let session = opened.session().expect("a session").to_owned();
    let accepted = one.asked("ada", post(Some(&session), &initialized())).await;
    assert_eq!(accepted.status, 202);
    redis.until("it is stored", &["dbsize"], "1").await;
    other.calls("ada", &session, 1).await;

    for loss in 0..3 {
        // when the server is restarted, and both find out at once,
        server.restart();
        let call = 10 * (loss + 1);
        tokio::join!(
            one.calls("ada", &session, call),
            other.calls("ada", &session, call + 1)
        );
        // then both go on in one session,
        one.calls("ada", &session, call + 2).await;
        other.calls("ada", &session, call + 3).await;
        one_is_left(&server).await;
        // and nobody else gets anywhere with its id, in either.
        let handshakes = server.count("initialize");
        server.restart();
        for gateway in [&one, &other] {
            let answer = gateway
                .asked("eve", post(Some(&session), &tool_call(0)))
                .await;
            assert_eq!(answer.status, 404);
        }
        assert_eq!(server.count("initialize"), handshakes);
    }

    // A replica that is replaced loses nothing,
    one.ends().await;
    other.calls("ada", &session, 100).await;
    let one = Gateway::start(&listen, &upstream, &redis).await;
    server.restart();
    one.calls("ada", &session, 101).await;
    one_is_left(&server).await;

    // and what has ended in one has ended in the other.
    assert_eq!(one.asked("ada", delete(&session)).await.status, 200);
    let answer = other
        .asked("ada", post(Some(&session), &tool_call(102)))
        .await;
    assert_eq!(answer.status, 404);
    assert!(server.live().is_empty());
}

async fn one_is_left(server: &Server) {
    soon("one session is left", async {
        while server.live().len() != 1 {
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}
