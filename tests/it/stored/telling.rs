//! Rules H1 and N3: what one process changes in a session is what the others restore, and tell.

use std::time::Duration;

use mcp_session_recovery::Outcome;
use testing::mocked::*;
use testing::*;

use super::{
    agreeing::{change, two, two_over},
    faulty::{FaultyStore, Mode},
};

/// Two processes, of which one has changed the session, and the other has recovered it without the
/// store, and so without having heard of that.
async fn recovered_before_a_change(store: &FaultyStore, others: &FaultyStore) -> (Scene, Scene) {
    let (one, other) = two_over(store, others).await;
    others.set(Mode::Down);
    let subscribe = change("resources/subscribe", "file:///a");
    one.send(post(Some(&one.session), &subscribe)).await;
    settle().await;
    one.server.restart();
    assert_eq!(echoed(&other.call(1).await), 1);
    (one, other)
}

#[tokio::test(start_paused = true)]
async fn n3_what_either_process_changes_is_restored_by_the_other() {
    let store = FaultyStore::new();
    let (one, other) = two(&store).await;
    let subscribe = |uri: &str| change("resources/subscribe", uri);
    let session = one.session.clone();
    one.send(post(Some(&session), &subscribe("file:///one")))
        .await;
    other
        .send(post(Some(&session), &subscribe("file:///other")))
        .await;
    settle().await;
    one.server.restart();
    assert_eq!(echoed(&one.call(1).await), 1);
    settle().await;
    let live = one.server.live();
    let mut subscriptions = one.server.subscriptions(&live[0]);
    subscriptions.sort();
    assert_eq!(subscriptions, ["file:///one", "file:///other"]);
}

/// H1: an epoch that was published without the store is told what had come to the store before.
#[tokio::test(start_paused = true)]
async fn n3_what_the_store_turns_out_to_hold_is_told_to_an_epoch_of_ones_own() {
    // Given a session whose state another process has changed, which the store knows, and a process
    // that could not ask, and recovered it,
    let store = FaultyStore::new();
    let others = store.another_way();
    let (one, _other) = recovered_before_a_change(&store, &others).await;
    let live = one.server.live();
    assert!(one.server.subscriptions(&live[0]).is_empty());

    // when the store is there again, then its session is told.
    others.set(Mode::Works);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(one.server.subscriptions(&live[0]), ["file:///a"]);
    // So whoever follows has nothing to tell.
    assert_eq!(echoed(&one.call(2).await), 2);
    settle().await;
    assert_eq!(one.server.live(), live);
    assert_eq!(one.server.count("resources/subscribe"), 2);
}

/// H1: what the store could not be told goes to the epoch that another process has made.
#[tokio::test(start_paused = true)]
async fn n3_what_was_not_written_is_told_to_the_epoch_that_is_adopted() {
    let store = FaultyStore::new();
    let (one, other) = two(&store).await;
    store.set(Mode::Full);
    let subscribe = change("resources/subscribe", "file:///a");
    one.send(post(Some(&one.session), &subscribe)).await;
    store.set(Mode::Works);
    one.server.restart();
    assert_eq!(echoed(&other.call(1).await), 1);
    assert_eq!(echoed(&one.call(2).await), 2);
    settle().await;
    let live = one.server.live();
    assert_eq!(one.server.subscriptions(&live[0]), ["file:///a"]);
}

/// H1: and what another process has taken back is not restored.
#[tokio::test(start_paused = true)]
async fn n3_what_another_process_took_back_is_not_restored() {
    let store = FaultyStore::new();
    let one = live(store.layer()).await;
    let session = one.session.clone();
    let subscribe = change("resources/subscribe", "file:///a");
    one.send(post(Some(&session), &subscribe)).await;
    settle().await;
    let other = one.in_another_process(store.layer());
    assert_eq!(echoed(&other.call(1).await), 1);
    let unsubscribe = change("resources/unsubscribe", "file:///a");
    one.send(post(Some(&session), &unsubscribe)).await;
    settle().await;
    one.server.restart();
    assert_eq!(echoed(&other.call(2).await), 2);
    settle().await;
    assert_eq!(one.server.count("resources/subscribe"), 1);
}

/// H1: what alters nothing of what one process knows may alter what the session holds.
#[tokio::test(start_paused = true)]
async fn n3_a_change_that_seems_to_be_none_is_one() {
    let (on, off) = ("resources/subscribe", "resources/unsubscribe");
    let level = "logging/setLevel";
    for [before, by_one, by_other, after] in [
        [None, Some((on, "a")), Some((off, "a")), None],
        [
            Some((on, "a")),
            Some((off, "a")),
            Some((on, "a")),
            Some((on, "a")),
        ],
        [
            Some((level, "info")),
            Some((level, "debug")),
            Some((level, "info")),
            Some((level, "info")),
        ],
    ] {
        for by in 0..3 {
            // Given a session that one process has changed since the other found it,
            let store = FaultyStore::new();
            let one = live(store.layer()).await;
            let changed = async |scene: &Scene, what: Option<(&str, &str)>| {
                if let Some((method, what)) = what {
                    scene
                        .send(post(Some(&one.session), &change(method, what)))
                        .await;
                }
                settle().await;
            };
            changed(&one, before).await;
            let joined = || one.in_another_process(store.layer());
            let other = joined();
            assert_eq!(echoed(&other.call(1).await), 1);
            changed(&one, by_one).await;
            // when the other changes it to what it thinks that it is,
            changed(&other, by_other).await;
            // then that is what any of them restores.
            one.server.restart();
            assert_eq!(echoed(&[&one, &other, &joined()][by].call(2).await), 2);
            settle().await;
            let live = one.server.live();
            let of = |it| {
                after
                    .filter(|(method, _)| *method == it)
                    .map(|(_, what)| what)
            };
            let subscriptions = one.server.subscriptions(&live[0]);
            assert_eq!(subscriptions, Vec::from_iter(of(on)), "{by}");
            assert_eq!(
                one.server.level(&live[0]),
                of(level).map(Into::into),
                "{by}"
            );
        }
    }
}

/// H1: what an epoch has been told by another process is not told again once all are agreed on it.
#[tokio::test(start_paused = true)]
async fn n3_an_epoch_that_all_are_agreed_on_is_told_of_each_change_once() {
    for (alone, follows) in [(1, false), (2, false), (2, true)] {
        // Given a process that has published epochs without the store, of which the last is what all
        // go on in since, or that of another process,
        let store = FaultyStore::new();
        let others = store.another_way();
        let (one, other) = two_over(&store, &others).await;
        others.set(Mode::Down);
        for _ in 0..alone {
            one.server.restart();
            assert_eq!(echoed(&other.call(1).await), 1);
        }
        if follows {
            assert_eq!(echoed(&one.call(2).await), 2);
        }
        others.set(Mode::Works);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(echoed(&one.call(3).await), 3);
        assert_eq!(one.server.live().len(), 1);

        // when that one changes the session, and then the first does,
        let subscribe = change("resources/subscribe", "file:///a");
        one.send(post(Some(&one.session), &subscribe)).await;
        settle().await;
        other.send(post(Some(&other.session), &set_level())).await;
        settle().await;

        // then the server has been told once.
        assert!(store.values().await[0].contains("file:///a"));
        let told = one.server.count("resources/subscribe");
        assert_eq!(told, 1, "{alone} {follows}");
        assert_eq!(one.server.count("logging/setLevel"), 1);
    }
}

/// H1: nor is what a recovery has restored.
#[tokio::test(start_paused = true)]
async fn n3_what_a_recovery_has_restored_is_not_told_again() {
    // Given a process in an epoch that was published without the store, to which a change of another
    // process has come before that,
    let store = FaultyStore::new();
    let others = store.another_way();
    let (one, other) = recovered_before_a_change(&store, &others).await;
    assert_eq!(one.server.count("resources/subscribe"), 1);

    // when it can read that, and recovers once more,
    others.set(Mode::Full);
    one.server.restart();
    assert_eq!(echoed(&other.call(2).await), 2);
    assert_eq!(one.server.count("resources/subscribe"), 2);

    // then that is all, also when it can write.
    others.set(Mode::Works);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(store.values().await[0].contains("\"epoch\":2"));
    assert_eq!(one.server.count("resources/subscribe"), 2);
}

/// H1: also what one of the requests that waited for that changes.
#[tokio::test(start_paused = true)]
async fn n3_h1_what_an_adopted_epoch_is_told_comes_before_what_is_sent_in_it() {
    // Given a process that has taken back a subscription while its store was away,
    let store = FaultyStore::new();
    let own = store.another_way();
    let (scene, other) = two_over(&own, &store).await;
    let [subscribe, unsubscribe] =
        ["resources/subscribe", "resources/unsubscribe"].map(|it| change(it, "file:///a"));
    scene.send(post(Some(&scene.session), &subscribe)).await;
    settle().await;
    own.set(Mode::Down);
    scene.send(post(Some(&scene.session), &unsubscribe)).await;
    scene.server.restart();
    assert_eq!(echoed(&other.call(2).await), 2);
    own.set(Mode::Works);
    // when it subscribes again, and goes on where another process has,
    let server = scene.server.clone();
    scene.server.on_async(move |seen| {
        let is_layers = seen.message()["id"].is_string();
        (is_layers && seen.what() == "resources/unsubscribe").then(|| {
            let (server, seen) = (server.clone(), seen.clone());
            Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(100)).await;
                Ok(server.default_answer(&seen))
            }) as Answering
        })
    });
    let answer = scene.send(post(Some(&scene.session), &subscribe)).await;
    assert_eq!(answer.outcome(), Some(Outcome::Replayed));
    tokio::time::sleep(Duration::from_secs(1)).await;
    // then that holds.
    let live = scene.server.live();
    assert_eq!(scene.server.subscriptions(&live[0]), ["file:///a"]);
}
