//! Every server, killed under a caller with the layer, and under one without.

use std::time::Duration;

use serde_json::{Value, json};
use testing::loopback::soon;
use tokio::time::timeout;

use crate::{
    caller::{Begins, Caller, Seen},
    process::{Program, Server},
};

/// How a lost answer to a call comes to light.
#[derive(Clone, Copy, PartialEq)]
enum InFlight {
    /// The stream ends: the layer says so in it.
    Told,
    /// The stream can be resumed: the layer says so to who tries.
    Resumed,
    /// The answer would have been JSON, and the connection breaks: there is nothing that the layer
    /// may do (rule F6).
    Broken,
}

impl InFlight {
    fn begins(self) -> Begins {
        match self {
            Self::Told => Begins::Streams,
            Self::Resumed => Begins::Resumable,
            Self::Broken => Begins::Sent,
        }
    }
}

/// What only server-everything calls otherwise.
struct Tools {
    echo: (&'static str, Value),
    slow: (&'static str, Value),
    touch: (&'static str, Value),
    resource: &'static str,
}

fn tools(program: Program) -> Tools {
    match program.name() == "everything" {
        true => Tools {
            echo: ("echo", json!({"message": "hello"})),
            slow: (
                "trigger-long-running-operation",
                json!({"duration": 600, "steps": 2}),
            ),
            touch: ("toggle-subscriber-updates", json!({})),
            resource: "demo://resource/dynamic/text/1",
        },
        false => Tools {
            echo: ("echo", json!({"text": "hello"})),
            slow: ("slow", json!({"seconds": 600})),
            touch: ("touch", json!({})),
            resource: "test://counter",
        },
    }
}

async fn survives(program: Program, in_flight: InFlight) {
    let without = without_layer(program, in_flight).await;
    let with = with_layer(program, in_flight).await;
    let cells: Vec<_> = without
        .iter()
        .zip(with)
        .map(|(without, with)| format!("{without} → {with}"))
        .collect();
    println!("\n| server {} | {} |", program.name(), cells.join(" | "));
}

async fn with_layer(program: Program, in_flight: InFlight) -> [String; 3] {
    let tools = tools(program);
    // Given a caller with a session, which listens and has subscribed to something,
    let mut server = Server::start(program).await;
    let mut caller = Caller::connect(&server.url(), true).await;
    caller.listen().await;
    let subscribed = caller
        .request("resources/subscribe", json!({"uri": tools.resource}))
        .await;
    assert!(matches!(subscribed, Seen::Result(_)), "{subscribed}");
    let before = caller.call(tools.echo.clone()).await;
    assert_eq!(caller.initializes(), 1);

    // when the server is killed and restarted, then the next call is answered as ever,
    server.restart().await;
    let after = caller.call(tools.echo.clone()).await;
    let (Seen::Result(before), Seen::Result(text)) = (&before, &after) else {
        panic!("{before}, {after}");
    };
    assert_eq!(before, text);
    assert!(text.contains("hello"));
    assert_eq!(caller.initializes(), 2, "one for the loss");

    // and when it is killed with a call in flight, then that has an end,
    let mut slow = caller.begin(tools.slow, in_flight.begins()).await;
    if in_flight == InFlight::Broken {
        // Nothing tells that it is under way. What is sent after it has been answered, so it is.
        let echoed = caller.call(tools.echo.clone()).await;
        assert!(matches!(echoed, Seen::Result(_)), "{echoed}");
    }
    let listening = caller.listening.as_ref().expect("it listens");
    let opened = listening.heard(|heard| heard.opened);
    server.kill().await;
    if in_flight == InFlight::Resumed {
        server.restart().await;
    }
    let lost = soon("the call in flight ends", &mut slow).await;
    let lost = lost.expect("an outcome");
    check_lost(&lost, in_flight);
    if in_flight != InFlight::Resumed {
        server.restart().await;
    }

    // and what it has subscribed to is brought by the listening stream.
    touched(&mut caller, tools.touch, opened).await;
    assert_eq!(caller.initializes(), 3, "one for each loss");
    [after.to_string(), lost.to_string(), "notified".to_owned()]
}

fn check_lost(lost: &Seen, in_flight: InFlight) {
    match in_flight {
        InFlight::Told => assert_eq!(lost.reason(), Some("stream_ended"), "{lost}"),
        InFlight::Resumed => assert_eq!(lost.reason(), Some("session_expired"), "{lost}"),
        InFlight::Broken => assert!(matches!(lost, Seen::Broken), "{lost}"),
    }
}

/// Has the server notify its subscribers until the caller hears of it.
async fn touched(caller: &mut Caller, touch: (&str, Value), opened: usize) {
    let mut listening = caller.listening.take().expect("it listens");
    listening.opens_again(opened).await;
    let before = listening.heard(|heard| heard.notifications.len());
    let mut tries = 0;
    loop {
        let called = caller.call(touch.clone()).await;
        assert!(matches!(called, Seen::Result(_)), "{called}");
        let updated = listening.until("a notification", |heard| {
            let new = &heard.notifications[before..];
            new.iter()
                .any(|it| it["method"] == "notifications/resources/updated")
        });
        if timeout(Duration::from_secs(3), updated).await.is_ok() {
            break;
        }
        tries += 1;
        assert!(
            tries < 5,
            "{:?}",
            listening.heard(|heard| format!("{heard:?}"))
        );
    }
    caller.listening = Some(listening);
}

/// The same without the layer: what is seen is noted, and not judged. Each loss ends the session,
/// so each part has a session of its own.
async fn without_layer(program: Program, in_flight: InFlight) -> [String; 3] {
    let tools = tools(program);
    let mut server = Server::start(program).await;
    let mut caller = Caller::connect(&server.url(), false).await;
    caller.call(tools.echo.clone()).await;
    caller.listen().await;
    server.restart().await;
    let after = caller.call(tools.echo.clone()).await;
    let mut listening = caller.listening.take().expect("it listens");
    let refused = listening.until("a refusal", |heard| heard.refused.is_some());
    let listens = match timeout(Duration::from_secs(5), refused).await {
        Ok(()) => listening
            .heard(|heard| heard.refused.unwrap_or_default())
            .to_string(),
        Err(_) => "silence".to_owned(),
    };
    drop(listening);
    // A process with one transport has had its one session only if it has had an `initialize`.
    let mut caller = Caller::connect(&server.url(), false).await;
    let slow = caller.begin(tools.slow, in_flight.begins()).await;
    if in_flight == InFlight::Broken {
        caller.call(tools.echo).await;
    }
    server.restart().await;
    let lost = timeout(Duration::from_secs(5), slow).await;
    let lost = lost.map_or("silence".to_owned(), |lost| {
        lost.expect("an outcome").to_string()
    });
    [after.to_string(), lost, listens]
}

macro_rules! servers {
    ($($name:ident: $in_flight:ident, $script:literal $($flag:literal)*;)*) => {$(
        #[tokio::test]
        #[ignore = "needs Node.js and Python packages: tests/interop/install"]
        async fn $name() {
            survives(Program::new($script, &[$($flag),*]), InFlight::$in_flight).await;
        }
    )*};
}

servers! {
    server_ts1: Told, "servers/ts1.mjs";
    server_ts1_json: Broken, "servers/ts1.mjs" "--json";
    server_ts1_event_store: Resumed, "servers/ts1.mjs" "--event-store";
    server_ts1_single: Told, "servers/ts1.mjs" "--single";
    server_ts2: Told, "servers/ts2.mjs";
    server_ts2_json: Broken, "servers/ts2.mjs" "--json";
    server_ts2_event_store: Resumed, "servers/ts2.mjs" "--event-store";
    server_ts2_single: Told, "servers/ts2.mjs" "--single";
    server_everything: Resumed, "servers/everything.mjs";
    server_py1: Told, "servers/py1.py";
    server_py1_json: Broken, "servers/py1.py" "--json";
    server_py1_event_store: Resumed, "servers/py1.py" "--event-store";
    server_py2: Told, "servers/py2.py";
    server_py2_json: Broken, "servers/py2.py" "--json";
    server_py2_event_store: Resumed, "servers/py2.py" "--event-store";
    server_fastmcp4: Told, "servers/fastmcp4.py";
    server_fastmcp4_json: Broken, "servers/fastmcp4.py" "--json";
    server_fastmcp4_event_store: Resumed, "servers/fastmcp4.py" "--event-store";
    server_rmcp: Resumed, "rmcp";
}
