//! The proxy example, as a program: its command line, whom it serves, its limits, TLS, how it
//! stops.

use std::sync::Arc;

use crate::{program::Proxy, scene::raw};
use http::{HeaderName, Method, Request};
use testing::loopback::*;
use testing::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;

pub async fn start(args: &[&str]) -> (Server, Loopback, Proxy) {
    let server = Server::new(Profile::TypeScript);
    let upstream = Loopback::serve(server.service()).await;
    let proxy = Proxy::start(&upstream.url(), args).await;
    (server, upstream, proxy)
}

#[tokio::test]
async fn it_says_one_line_once_it_listens() {
    for (upstream, path, shown) in [
        (
            "http://127.0.0.1:4101/mcp",
            "/mcp",
            "http://127.0.0.1:4101/mcp",
        ),
        ("http://[::1]:4101/", "/", "http://[::1]:4101/"),
        ("http://example.test", "/", "http://example.test/"),
        (
            "https://a.test/v1/mcp?key=secret",
            "/v1/mcp",
            "https://a.test/v1/mcp",
        ),
    ] {
        let proxy = Proxy::start(upstream, &[]).await;
        let url = &proxy.url;
        let (host, _) = url.rsplit_once(':').unwrap();
        assert_eq!(host, "http://127.0.0.1");
        assert!(url.ends_with(path));
        assert_eq!(
            proxy.says,
            format!("listening on {url}, forwarding to {shown}\n")
        );

        proxy.signal("TERM");
        let (status, rest, log) = proxy.ends().await;
        assert_eq!((status.code(), &*rest), (Some(0), ""));
        assert!(!log.contains("secret"), "{log}");
    }
}

#[tokio::test]
async fn what_cannot_work_ends_it_with_a_message_and_status_2() {
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap().to_string();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let free_address = free.local_addr().unwrap().to_string();
    drop(free);
    let itself = format!("http://{free_address}/mcp");
    let good = "http://127.0.0.1:1/mcp?key=secret";
    let cases: &[(&[&str], &str)] = &[
        (&[], "--upstream"),
        (&["--upstream", "secret"], "http://"),
        (&["--upstream", "ftp://127.0.0.1/secret"], "http://"),
        (&["--upstream", "http://"], "--upstream"),
        (&["--upstream", "http:///secret"], "--upstream"),
        (&["--upstream", "http://127.0.0.1:secret/mcp"], "--upstream"),
        (&["--upstream", "http://127.0.0.1:99999/secret"], "port"),
        (
            &["--upstream", "http://user:secret@127.0.0.1:1/mcp"],
            "user name",
        ),
        (
            &["--upstream", "http://127.0.0.1:1/secret path"],
            "--upstream",
        ),
        (
            &["--upstream", &itself, "--listen", &free_address],
            "itself",
        ),
        (&["--upstream", good, "--listen", &taken], "in use"),
        (&["--upstream", good, "--listen", "127.0.0.1"], "127.0.0.1"),
        (
            &["--upstream", good, "--listen", "192.0.2.1:1"],
            "192.0.2.1:1",
        ),
        (&["--upstream", good, "--log", "loud"], "loud"),
        (
            &["--upstream", good, "--allow-origin", "app.test"],
            "app.test",
        ),
        (
            &["--upstream", good, "--allow-origin", "https://app.test/x"],
            "origin",
        ),
        (&["--upstream", good, "--allow-origin", "*"], "origin"),
        (&["--upstream", good, "--wait", "soon"], "10s"),
        (&["--upstream", good, "--header", "secret"], "--header: "),
        (
            &["--upstream", good, "--header-file", "/nowhere/secret"],
            "--header-file: entity not found",
        ),
        (&["--upstream", good, "--max-connections", "0"], "0"),
        (
            &[
                "--upstream",
                good,
                "--principal",
                "authorization",
                "--principal-header",
                "x-user",
            ],
            "--principal",
        ),
        (
            &["--upstream", good, "--no-such-option"],
            "--no-such-option",
        ),
    ];
    for (args, message) in cases {
        let (status, stdout, stderr) = crate::program::run(args).await;
        assert_eq!(status, Some(2), "{args:?}: {stderr}");
        assert_eq!(stdout, "", "{args:?}");
        assert!(stderr.starts_with("error: "), "{args:?}: {stderr}");
        assert!(stderr.contains(message), "{args:?}: {stderr}");
        assert!(!stderr.contains("secret"), "{args:?}: {stderr}");
    }
    drop(holder);
}

/// What a page of another site could send is refused; that is the specification's "Security
/// Warning" for transports.
#[tokio::test]
async fn only_local_origins_and_those_that_are_named_are_served() {
    let allow = [
        "--allow-origin",
        "https://App.test",
        "--allow-origin",
        "app://x",
    ];
    let (server, _upstream, proxy) = start(&allow).await;
    let client = http1();
    for (origin, served) in [
        ("http://localhost", true),
        ("http://localhost:6274", true),
        ("https://LOCALHOST:8443", true),
        ("http://127.0.0.1:1", true),
        ("http://127.8.9.1", true),
        ("http://[::1]:3000", true),
        ("https://app.test", true),
        ("https://app.test:443", true),
        ("app://x", true),
        ("null", false),
        ("", false),
        ("http://app.test", false),
        ("https://app.test:444", false),
        ("https://app.test.evil.test", false),
        ("https://evil.test", false),
        ("http://localhost.evil.test", false),
        ("http://127.0.0.1.evil.test", false),
        ("http://127.0.0.1@evil.test", false),
        ("http://evil.test@localhost", false),
        ("http://localhost/evil", false),
        ("http://localhost:port", false),
        ("evil://localhost", false),
        ("localhost", false),
        ("http://0.0.0.0", false),
        ("http://192.168.0.1", false),
        ("http://localhost http://evil.test", false),
        ("\u{e9}", false),
    ] {
        for method in [Method::POST, Method::GET, Method::DELETE, Method::OPTIONS] {
            let before = server.seen().len();
            let mut request = to(&proxy.url, request(method.clone(), None, ""));
            request
                .headers_mut()
                .insert("origin", origin.parse().unwrap());
            let answer = fetch(&client, request).await;
            assert_eq!(answer.status != 403, served, "{method} {origin:?}");
            assert_eq!(server.seen().len() > before, served, "{method} {origin:?}");
            if !served {
                assert_eq!(answer.text().lines().count(), 1);
                assert!(answer.text().contains("--allow-origin"));
            }
        }
    }

    // One that is not allowed does not hide behind one that is; the path does not matter.
    let mut request = to(&proxy.url, post(None, &initialize()));
    for origin in ["http://localhost", "https://evil.test"] {
        request
            .headers_mut()
            .append("origin", origin.parse().unwrap());
    }
    assert_eq!(fetch(&client, request).await.status, 403);
    let mut request = to(
        &proxy.url.replace("mcp", "other"),
        post(None, &initialize()),
    );
    let evil = "https://evil.test".parse().unwrap();
    request.headers_mut().insert("origin", evil);
    assert_eq!(fetch(&client, request).await.status, 403);
}

/// A GET of a page whose own name has come to mean this machine has no `Origin`.
#[tokio::test]
async fn on_a_loopback_address_only_its_own_names_are_served() {
    let (_server, upstream, proxy) = start(&["--allow-host", "proxy.test"]).await;
    let port = proxy
        .url
        .split(':')
        .next_back()
        .unwrap()
        .replace("/mcp", "");
    let local = [
        "localhost".to_owned(),
        format!("localhost:{port}"),
        format!("127.0.0.1:{port}"),
        format!("[::1]:{port}"),
        "PROXY.test".to_owned(),
        format!("proxy.test:{port}"),
    ];
    let others = [
        format!("evil.test:{port}"),
        "localhost.evil.test".to_owned(),
        "192.168.0.1".to_owned(),
        "".to_owned(),
        "a b".to_owned(),
    ];
    let everywhere = Proxy::start(&upstream.url(), &["--listen", "0.0.0.0:0"]).await;
    let local = local.iter().map(|host| (host, true));
    for (host, served) in local.chain(others.iter().map(|host| (host, false))) {
        let get = format!("GET /mcp HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        let answer = raw(&proxy, &get).await;
        let is = !answer.starts_with("HTTP/1.1 403");
        assert_eq!(is, served, "{host:?}: {answer}");
        // Other machines call one that is there for them what they like.
        let answer = raw(&everywhere, &get).await;
        assert!(!answer.starts_with("HTTP/1.1 403"), "{host:?}: {answer}");
    }
    // The name in the request line is one, too.
    let line = format!(
        "GET http://evil.test/mcp HTTP/1.1\r\nhost: localhost:{port}\r\nconnection: close\r\n\r\n"
    );
    assert!(raw(&proxy, &line).await.starts_with("HTTP/1.1 403"));
}

#[tokio::test]
async fn bodies_and_headers_over_the_limit_are_refused() {
    let (server, _upstream, proxy) = start(&["--max-body-bytes", "3000000"]).await;
    server.on(|seen| seen.body.starts_with(b"x").then(|| reply(200, None, "")));
    for (name, client) in [("HTTP/1.1", http1()), ("HTTP/2", http2())] {
        // With a `Content-Length`, and without, in a session (which the layer reads) and without.
        let session = fetch(&client, to(&proxy.url, post(None, &initialize()))).await;
        let session = session.session().unwrap().to_owned();
        for session in [None, Some(&*session)] {
            for (size, status) in [(3_000_000, 200), (3_000_001, 413)] {
                for chunked in [false, true] {
                    let case = format!("{name} {session:?} {size} {chunked}");
                    let text: &'static str = "x".repeat(size).leak();
                    let mut request = to(&proxy.url, request(Method::POST, session, text));
                    if chunked {
                        let (tap, body) = tap();
                        tap.send(text);
                        *request.body_mut() = body;
                    }
                    let answer = fetch(&client, request).await;
                    assert_eq!(answer.status, status, "{case}");
                    if status == 413 {
                        assert!(answer.text().contains("--max-body-bytes"));
                    }
                }
            }
        }

        let mut request = to(&proxy.url, post(None, &initialize()));
        let name = HeaderName::from_static("x-long");
        let long = "x".repeat(70_000).parse().unwrap();
        request.headers_mut().insert(name, long);
        assert_eq!(fetch(&client, request).await.status, 431);
    }
    // None of them came through whole.
    for seen in server.seen() {
        let size = seen.body.len();
        assert!(size <= 3_000_000 && seen.header("x-long").is_none());
        let whole = size == 3_000_000 || !seen.body.starts_with(b"x");
        assert_eq!(seen.body_error.is_none(), whole, "{size} {seen:?}");
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_is_the_clients_own_fault() {
    let (_server, _upstream, proxy) = start(&[]).await;
    for content_type in ["application/json", "text/plain"] {
        let head = "POST /mcp HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n";
        let request = format!("{head}content-type: {content_type}\r\n\r\n5\r\nhello\r\nz\r\n");
        let answer = raw(&proxy, &request).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
        assert!(answer.ends_with("the request body broke off\n"), "{answer}");
    }
}

/// A server's end of TLS, and the file with its certificate, for the proxy to find as the system's.
fn tls(file: &str) -> (TlsAcceptor, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = made.signing_key.serialize_der();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![made.cert.der().clone()],
            rustls::pki_types::PrivateKeyDer::Pkcs8(key.into()),
        )
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let file = format!(
        "{}/{file}-{}.pem",
        env!("CARGO_TARGET_TMPDIR"),
        std::process::id()
    );
    std::fs::write(&file, made.cert.pem()).unwrap();
    (TlsAcceptor::from(Arc::new(config)), file)
}

#[tokio::test]
async fn an_https_upstream_is_reached_with_the_systems_roots_and_http2() {
    // Given an upstream that allows two streams on a connection,
    let (acceptor, file) = tls("trusted");
    let (_, other_file) = tls("other");
    let server = Server::new(Profile::TypeScript);
    let (versions, seen_versions) = std::sync::mpsc::channel();
    let service = tower::ServiceBuilder::new()
        .map_request(move |request: Request<hyper::body::Incoming>| {
            let _ = versions.send(request.version());
            request
        })
        .service(server.service());
    let upstream = Loopback::serve_with(
        "127.0.0.1:0",
        service,
        |server| {
            server.http2().max_concurrent_streams(2);
        },
        move |stream| {
            let acceptor = acceptor.clone();
            async move { acceptor.accept(stream).await.ok() }
        },
    )
    .await;
    let port = upstream.address.port();
    let url = format!("https://localhost:{port}/mcp");
    let trusting = |file: &str| {
        let file = file.to_owned();
        move |command: &mut tokio::process::Command| {
            command
                .env("SSL_CERT_FILE", file)
                .env_remove("SSL_CERT_DIR");
        }
    };
    let proxy = Proxy::start_with(&url, &[], trusting(&file)).await;
    let client = http1();
    let answer = fetch(&client, to(&proxy.url, post(None, &initialize()))).await;
    let session = answer.session().expect("a session").to_owned();

    // when a client opens more than two streams, which never end,
    let get = || to(&proxy.url, get(&session, None));
    let streams = futures::future::join_all((0..5).map(|_| open(&client, get()))).await;
    assert!(streams.iter().all(|stream| stream.status() == 200));

    // then its calls pass all the same, and recover.
    let call = async |n| fetch(&client, to(&proxy.url, post(Some(&session), &tool_call(n)))).await;
    assert_eq!(call(1).await.status, 200);
    let before = upstream.connections();
    server.restart();
    let answers = futures::future::join_all((2..8).map(call)).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert_eq!(server.count("initialize"), 2);
    // The streams moved, on connections of their own; the calls have one.
    soon("five streams move", async {
        while server.count("GET") < 10 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(upstream.connections(), before + 5);
    assert!(
        seen_versions
            .try_iter()
            .all(|version| version == http::Version::HTTP_2)
    );

    // A certificate that nobody vouches for is not accepted; nor is a server without one.
    let plain = Loopback::serve(server.service()).await;
    let plain = format!("https://localhost:{}/mcp", plain.address.port());
    for (url, why) in [
        (url, "its certificate is not valid"),
        (plain, "no TLS connection"),
    ] {
        let proxy = Proxy::start_with(&url, &[], trusting(&other_file)).await;
        let answer = fetch(&client, to(&proxy.url, post(None, &initialize()))).await;
        // No use to wait for that.
        let line = format!("the upstream cannot be reached: {why}\n");
        assert_eq!((answer.status, answer.text()), (502, &*line));
    }
    for file in [file, other_file] {
        std::fs::remove_file(file).unwrap();
    }
}

#[tokio::test]
async fn without_roots_an_https_upstream_is_refused_and_a_plain_one_is_not() {
    let file = format!(
        "{}/none-{}.pem",
        env!("CARGO_TARGET_TMPDIR"),
        std::process::id()
    );
    std::fs::write(&file, "").unwrap();
    let without = |command: &mut tokio::process::Command| {
        command
            .env("SSL_CERT_FILE", &file)
            .env_remove("SSL_CERT_DIR");
    };
    drop(Proxy::start_with("http://localhost:1/mcp", &[], without).await);
    let mut command = tokio::process::Command::new(crate::program::binary());
    without(command.args([
        "--listen",
        "127.0.0.1:0",
        "--upstream",
        "https://localhost:1/mcp",
    ]));
    let output = soon("the end", command.kill_on_drop(true).output())
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.starts_with("error: --upstream: "), "{error}");
    std::fs::remove_file(file).unwrap();
}

#[tokio::test]
async fn it_says_its_version_and_how_it_is_used() {
    for (arg, says) in [
        (
            "--version",
            concat!("mcp-session-proxy ", env!("CARGO_PKG_VERSION")),
        ),
        ("-h", "Point clients at"),
        ("--help", "--header-file token.txt"),
    ] {
        let (status, stdout, stderr) = crate::program::run(&[arg]).await;
        assert_eq!((status, &*stderr), (Some(0), ""), "{arg}");
        assert!(stdout.contains(says), "{arg}: {stdout}");
    }
}

#[tokio::test]
async fn it_says_that_it_is_well_without_asking_the_upstream() {
    let (server, _upstream, proxy) = start(&[]).await;
    for method in [Method::GET, Method::HEAD] {
        let url = proxy.url.replace("/mcp", "/healthz");
        let answer = fetch(&http1(), to(&url, request(method.clone(), None, ""))).await;
        let text = if method == Method::GET { "ok\n" } else { "" };
        assert_eq!((answer.status, answer.text()), (200, text));
    }
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn it_warns_of_other_machines_unless_it_tells_users_apart() {
    let upstream = "http://127.0.0.1:1/mcp";
    for (args, warns) in [
        (&["--listen", "0.0.0.0:0"] as &[_], true),
        (&["--listen", "[::]:0"], true),
        (&["--listen", "127.0.0.1:0"], false),
        (
            &["--listen", "0.0.0.0:0", "--principal", "authorization"],
            false,
        ),
        (
            &["--listen", "0.0.0.0:0", "--principal-header", "x-user"],
            false,
        ),
    ] {
        let proxy = Proxy::start(upstream, args).await;
        proxy.signal("TERM");
        let (_, _, log) = proxy.ends().await;
        assert_eq!(
            log.contains("other machines can connect"),
            warns,
            "{args:?}"
        );
    }
}

#[tokio::test]
async fn it_listens_on_a_unix_socket() {
    // Given a socket that a proxy has left behind,
    let path = std::env::temp_dir().join(format!("mcp-proxy-{}.sock", std::process::id()));
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let listen = format!("unix:{}", path.display());

    // when another one is to listen there,
    let (server, upstream, proxy) = start(&["--listen", &listen]).await;
    assert_eq!(proxy.url, listen);
    assert!(!proxy.log().contains("other machines"));

    // then clients are served, whatever they call it,
    let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
    let body = initialize().to_string();
    let request = format!(
        "POST /mcp HTTP/1.1\r\nhost: any.test\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = soon("an answer", stream.read_to_string(&mut answer));
    read.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(server.count("initialize"), 1);

    // a second proxy does not take it away, and it goes with the first.
    let (status, _, error) =
        crate::program::run(&["--listen", &listen, "--upstream", &upstream.url()]).await;
    assert_eq!(status, Some(2));
    assert!(error.contains("in use"), "{error}");
    proxy.signal("TERM");
    assert_eq!(proxy.ends().await.0.code(), Some(0));
    assert!(!path.exists());
}

#[tokio::test]
async fn headers_of_its_own_replace_the_clients_and_are_read_again() {
    // Given a proxy with a header, and a file with a token,
    let file = std::env::temp_dir().join(format!("mcp-proxy-{}.token", std::process::id()));
    std::fs::write(&file, "# a token\n\nAuthorization: Bearer secret-1\n").unwrap();
    let args = [
        "--header",
        "X-Team: secret blue",
        "--header-file",
        file.to_str().unwrap(),
        "--log",
        "trace",
    ];
    let (server, _upstream, mut proxy) = start(&args).await;
    let client = http1();
    let answer = fetch(&client, to(&proxy.url, post(None, &initialize()))).await;
    let session = answer.session().unwrap().to_owned();
    let sent = |what: &str| {
        let seen = server.last(what);
        let headers = [seen.header("x-team"), seen.header("authorization")];
        headers.map(|header| header.map(str::to_owned))
    };
    let own = |token: &str| {
        [
            Some("secret blue".to_owned()),
            Some(format!("Bearer {token}")),
        ]
    };
    assert_eq!(sent("initialize"), own("secret-1"));

    // when the token changes and the server forgets the session,
    std::fs::write(&file, "authorization: Bearer secret-two\n").unwrap();
    server.restart();
    let call = || fetch(&client, to(&proxy.url, post(Some(&session), &tool_call(1))));
    assert_eq!(call().await.status, 200);

    // then the handshake and the call have the new one, and a broken file changes nothing.
    assert_eq!(sent("initialize"), own("secret-two"));
    assert_eq!(sent("tools/call"), own("secret-two"));
    std::fs::write(&file, "secret").unwrap();
    assert_eq!(call().await.status, 200);
    assert_eq!(sent("tools/call"), own("secret-two"));
    proxy.logs("what it said before still counts").await;
    assert!(!proxy.log().contains("secret"), "{}", proxy.log());
    std::fs::remove_file(file).unwrap();
}

/// A4 through the program.
#[tokio::test]
async fn principals_do_not_share_sessions() {
    for (args, header) in [
        (["--principal", "authorization"], "authorization"),
        (
            ["--principal-header", "x-forwarded-user"],
            "x-forwarded-user",
        ),
    ] {
        // Given a session of one user,
        let (server, _upstream, proxy) = start(&args).await;
        let client = http1();
        let by = |user: &str, mut request: Request<CallerBody>| {
            let name = HeaderName::from_static(header);
            request.headers_mut().insert(name, user.parse().unwrap());
            to(&proxy.url, request)
        };
        let answer = fetch(&client, by("alice", post(None, &initialize()))).await;
        let session = answer.session().unwrap();
        server.restart();

        // when another presents its id, then that is the server's to refuse,
        let call = || post(Some(session), &tool_call(1));
        assert_eq!(fetch(&client, by("mallory", call())).await.status, 404);
        assert_eq!(server.count("initialize"), 1, "{header}");
        // and its own user is recovered.
        assert_eq!(fetch(&client, by("alice", call())).await.status, 200);
        assert_eq!(server.last("tools/call").header(header), Some("alice"));
    }
}
