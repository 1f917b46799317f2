//! What an event stream pays for the layer: `cargo bench -p benches --bench streams`.
//!
//! Bare and layer are measured in turns within one run. `memory` has a body that copies each chunk
//! once, as a socket does at least: there the layer's own cost per MiB shows. `loopback` is a hyper
//! client and server, and a reader that takes the chunks and looks at nothing, which no client does;
//! in `decoded` it decodes the events, as every client does.

use std::{convert::Infallible, fmt::Debug, future::ready, hint::black_box, sync::LazyLock};

use bytes::{Buf, Bytes};
use http::{HeaderValue, Method, Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use mcp_session_recovery::SessionRecoveryLayer;
use sse_core::SseDecoder;
use testing::benching::*;
use tower::{Layer, service_fn};

const MIB: usize = 1024 * 1024;
const SIZE: usize = 64 * MIB;
const CHUNKS: [usize; 2] = [64 * 1024, 1460];

/// A name, and what makes the stream.
type Kind = (&'static str, fn() -> Bytes);

/// What a stream holds before its last event, which answers the call.
const KINDS: [Kind; 3] = [
    ("small events", || small(false)),
    ("small events with ids", || small(true)),
    ("one large event", large),
];

static STREAMS: LazyLock<[Bytes; 3]> = LazyLock::new(|| KINDS.map(|(_, make)| make()));

/// Notifications of about 150 bytes.
fn small(ids: bool) -> Bytes {
    let mut stream = String::with_capacity(SIZE + 256);
    for n in 0.. {
        if stream.len() >= SIZE {
            break;
        }
        stream.push_str("event: message\n");
        if ids {
            stream.push_str(&format!("id: 7f3a_{n:08}\n"));
        }
        stream.push_str(&format!(
            r#"data: {{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":1,"progress":{n:08},"message":"step"}}}}"#
        ));
        stream.push_str("\n\n");
    }
    end(stream)
}

fn large() -> Bytes {
    let mut stream = String::with_capacity(SIZE + 256);
    stream
        .push_str(r#"data: {"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":""#);
    stream.extend(std::iter::repeat_n("0123456789abcdef", SIZE / 16));
    stream.push_str("\"}]}}\n\n");
    stream.into()
}

fn end(mut stream: String) -> Bytes {
    stream.push_str(&format!("event: message\ndata: {ANSWER}\n\n"));
    stream.into()
}

/// `kind` is an index of a kind and the size of the chunks.
fn chunks(kind: &str) -> impl Iterator<Item = Bytes> + Send + Unpin + use<> {
    let (kind, size) = kind.split_once(' ').unwrap();
    let stream = STREAMS[kind.parse::<usize>().unwrap()].clone();
    let size: usize = size.parse().unwrap();
    let starts = (0..stream.len()).step_by(size);
    starts.map(move |start| stream.slice(start..stream.len().min(start + size)))
}

fn main() {
    if wanted("memory") {
        let service =
            service_fn(|request: Request<_>| ready(Ok::<_, Infallible>(in_memory(&request))));
        let layered = SessionRecoveryLayer::new().layer(service_fn(|request: Request<_>| {
            ready(Ok::<_, Infallible>(in_memory(&request)))
        }));
        measure(
            "In memory, with a body that copies",
            "http://bench.test/mcp",
            service,
            layered,
            Reader::Counts,
        );
    }
    for (section, reader) in [("loopback", Reader::Counts), ("decoded", Reader::Decodes)] {
        if !wanted(section) {
            continue;
        }
        let (uri, _) = serve(|kind| event_stream(Chunks::new(chunks(kind))));
        for (http, http2) in [("HTTP/1", false), ("HTTP/2", true)] {
            // A connection for each stream: one may be faster than another for as long as it lasts.
            let layered = SessionRecoveryLayer::new().layer(hyper_client_with(http2, 0));
            let title = match reader {
                Reader::Counts => format!("Over loopback, {http}"),
                Reader::Decodes => format!("Over loopback, {http}, with a reader that decodes"),
            };
            measure(&title, &uri, hyper_client_with(http2, 0), layered, reader);
        }
    }
}

/// What is done with the chunks.
#[derive(Clone, Copy)]
enum Reader {
    Counts,
    Decodes,
}

fn in_memory<B>(request: &Request<B>) -> Response<ServerBody> {
    let headers = request.headers();
    match headers.get("x-stream") {
        Some(kind) => {
            let chunks = chunks(kind.to_str().unwrap());
            event_stream(Chunks::new(
                chunks.map(|chunk| Bytes::copy_from_slice(&chunk)),
            ))
        }
        None if headers.contains_key(SESSION_ID) => reply(202, "text/plain", empty()),
        None => {
            let mut response = reply(200, "text/plain", empty());
            let id = HeaderValue::from_static("0123456789abcdef");
            response.headers_mut().insert(SESSION_ID, id);
            response
        }
    }
}

fn empty() -> ServerBody {
    Full::default().boxed_unsync()
}

fn measure(
    title: &str,
    uri: &str,
    mut bare: impl Caller,
    mut layered: impl Caller,
    reader: Reader,
) {
    let runtime = runtime();
    let ids = runtime.block_on(async {
        [
            handshake(&mut bare, uri).await,
            handshake(&mut layered, uri).await,
        ]
    });
    head(
        title,
        &[
            "stream",
            "chunks",
            "as",
            "bare MiB/s",
            "layer MiB/s",
            "of bare",
            "layer's own µs/MiB",
        ],
    );
    for (kind, (name, _)) in KINDS.iter().enumerate() {
        for size in CHUNKS {
            for method in [Method::GET, Method::POST] {
                let read = |layer: bool| {
                    let id = &ids[usize::from(layer)];
                    let body = if method == Method::POST { CALL } else { b"" };
                    let mut request = request(method.clone(), uri, Some(id), body);
                    let value = HeaderValue::try_from(format!("{kind} {size}")).unwrap();
                    request.headers_mut().insert("x-stream", value);
                    let mut length = 0;
                    let took = seconds(|| {
                        length = match layer {
                            true => runtime.block_on(read(&mut layered, request, reader)),
                            false => runtime.block_on(read(&mut bare, request, reader)),
                        }
                    });
                    assert_eq!(length, STREAMS[kind].len());
                    took / (length as f64 / MIB as f64)
                };
                let Pair { bare, layer, ratio } = in_turns(11, read);
                row([
                    (*name).to_owned(),
                    format!("{size} B"),
                    if method == Method::GET {
                        "listening stream"
                    } else {
                        "answer"
                    }
                    .to_owned(),
                    format!("{:.0}", 1.0 / bare),
                    format!("{:.0}", 1.0 / layer),
                    format!("{:.1} %", 100.0 / ratio),
                    format!("{:.0}", (layer - bare) * 1e6),
                ]);
            }
        }
    }
}

async fn read(caller: &mut impl Caller, request: Request<Full<Bytes>>, reader: Reader) -> usize {
    let response = caller.send(request).await.unwrap();
    assert_eq!(response.status(), 200);
    match reader {
        Reader::Counts => drain(response.into_body()).await,
        Reader::Decodes => decode(response.into_body()).await,
    }
}

/// Reads the events as a client does, and gives the length of all of it.
async fn decode<R: Body<Data = Bytes, Error: Debug>>(body: R) -> usize {
    let mut body = std::pin::pin!(body);
    let mut decoder = SseDecoder::new();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let Ok(mut chunk) = frame.unwrap().into_data() else {
            continue;
        };
        length += chunk.len();
        while chunk.has_remaining() {
            black_box(decoder.next(&mut chunk));
        }
    }
    length
}
