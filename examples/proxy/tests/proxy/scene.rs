//! What the tests of the proxy begin with.

#![allow(unreachable_pub)]

use http::{Method, Request};
use testing::loopback::*;
use testing::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::program::Proxy;

/// A server with a proxy in front of it.
pub struct Scene {
    pub server: Server,
    pub upstream: Loopback,
    pub proxy: Proxy,
}

impl Scene {
    pub async fn new(profile: Profile) -> Self {
        Self::with(profile, &[]).await
    }

    pub async fn with(profile: Profile, args: &[&str]) -> Self {
        let server = Server::new(profile);
        let upstream = Loopback::serve(server.service()).await;
        let proxy = Proxy::start(&upstream.url(), args).await;
        Self {
            server,
            upstream,
            proxy,
        }
    }

    pub fn request(
        &self,
        method: Method,
        session: Option<&str>,
        body: &str,
    ) -> Request<CallerBody> {
        to(&self.proxy.url, request(method, session, body.to_owned()))
    }

    pub async fn post(
        &self,
        client: &Http,
        session: Option<&str>,
        message: &serde_json::Value,
    ) -> Answer {
        let request = self.request(Method::POST, session, &message.to_string());
        fetch(client, request).await
    }

    pub async fn handshake(&self, client: &Http) -> String {
        let answer = self.post(client, None, &initialize()).await;
        assert_eq!(answer.status, 200);
        let session = answer.session().expect("a session id").to_owned();
        let accepted = self.post(client, Some(&session), &initialized()).await;
        assert_eq!(accepted.status, 202);
        session
    }

    /// Calls, and gives what the tool was called with.
    pub async fn call(&self, client: &Http, session: &str, n: u64) -> serde_json::Value {
        let answer = self.post(client, Some(session), &tool_call(n)).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let message = answer.messages().pop().expect("an answer");
        assert_eq!(message["id"], n);
        message["result"]["echo"]["arguments"]["n"].clone()
    }
}

/// The address of a proxy.
pub fn address(proxy: &Proxy) -> &str {
    proxy.url.split('/').nth(2).unwrap()
}

/// Sends text and reads text, on a connection of its own.
pub async fn raw(proxy: &Proxy, request: &str) -> String {
    let mut stream = TcpStream::connect(address(proxy)).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    soon("an answer", stream.read_to_end(&mut answer))
        .await
        .unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// An upstream that says the same to everybody, whatever it is.
pub async fn saying(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/mcp", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = [0; 4096];
                let _ = stream.read(&mut head).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    url
}
