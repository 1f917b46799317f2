//! The store in a file: what survives a crash, and what does not stop it (rules N5, N7).

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use bytes::Bytes;
use mcp_session_recovery::store::{RedbStore, Saved, SessionStore, StoreErrorKind, StoreKey};
use tokio::task::JoinSet;

const DAY: Duration = Duration::from_secs(86_400);
const FILE: &str = "STORE_FILE";
const KEYS: u8 = 8;

fn key(number: u8) -> StoreKey {
    StoreKey::from_bytes([number; 32])
}

/// A value that shows if it is not whole: a count, and many bytes made from it.
fn value(count: u64) -> Bytes {
    let body = (0..500 + 100 * (count % 50)).map(|index| (count + index) as u8);
    [&count.to_be_bytes()[..], &Vec::from_iter(body)]
        .concat()
        .into()
}

fn count(value: &[u8]) -> u64 {
    let count = u64::from_be_bytes(*value.first_chunk().unwrap());
    assert!(*value == *self::value(count), "a value is not whole");
    count
}

/// Not a test: the process that is killed. Counts up the value of each key, and says so after each
/// acknowledgement.
#[tokio::test]
#[ignore = "run by the test below, in a process of its own"]
async fn child() {
    let Some(path) = std::env::var_os(FILE) else {
        return;
    };
    let store = RedbStore::open(path).await.unwrap();
    let mut tasks = JoinSet::new();
    for number in 0..KEYS {
        let store = store.clone();
        tasks.spawn(async move {
            loop {
                let stored = store.load(key(number)).await.unwrap();
                let next = stored.as_ref().map_or(0, |stored| count(&stored.value)) + 1;
                let revision = stored.map(|stored| stored.revision);
                let saved = store.save(key(number), value(next), revision, DAY).await;
                assert!(matches!(saved, Ok(Saved::Yes(_))));
                // Written at once, since this process has no time to flush.
                let line = format!("ack {number} {next}\n");
                std::io::stdout().write_all(line.as_bytes()).unwrap();
            }
        });
    }
    tasks.join_all().await;
}

/// Kills a process that writes the file, after so many acknowledgements, and gives the last one of
/// each key.
fn killed_while_it_writes(path: &Path, acknowledgements: usize) -> HashMap<u8, u64> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "redb::child", "--ignored", "--nocapture"])
        .env(FILE, path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut acknowledged = HashMap::new();
    let mut note = |line: String| {
        let words: Vec<_> = line.split_whitespace().collect();
        if let ["ack", number, count] = words[..] {
            acknowledged.insert(number.parse().unwrap(), count.parse().unwrap());
        }
    };
    for _ in 0..acknowledgements {
        note(lines.next().expect("the child ended by itself").unwrap());
    }
    child.kill().unwrap();
    // What it had said before it was killed counts, too; a line that it had not ended does not.
    lines
        .map_while(Result::ok)
        .filter(|line| line.len() > 6)
        .for_each(note);
    child.wait().unwrap();
    acknowledged
}

async fn crash(times: usize) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sessions");
    let mut last = HashMap::new();
    for time in 0..times {
        // From before the first write to well into them, at ever other points.
        let acknowledged = killed_while_it_writes(&path, time * 7 % 61);
        last.extend(acknowledged);

        let store = RedbStore::open(&path).await.expect("the file is damaged");
        for number in 0..KEYS {
            let stored = store.load(key(number)).await.unwrap();
            let stored = stored.map_or(0, |stored| count(&stored.value));
            let acknowledged = last.get(&number).copied().unwrap_or_default();
            // One more may have been written and not acknowledged.
            let fits = [acknowledged, acknowledged + 1].contains(&stored);
            assert!(
                fits,
                "crash {time}: {acknowledged} acknowledged, {stored} stored"
            );
            last.insert(number, stored);
        }
    }
}

#[tokio::test]
async fn n7_a_crash_loses_at_most_what_was_not_acknowledged() {
    crash(10).await;
}

#[tokio::test]
#[ignore = "takes a minute"]
async fn n7_two_hundred_crashes_lose_at_most_what_was_not_acknowledged() {
    crash(200).await;
}

#[tokio::test]
async fn n1_what_was_saved_is_there_when_the_file_is_opened_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sessions");
    let store = RedbStore::open(&path).await.unwrap();
    let saved = store.save(key(1), value(1), None, DAY).await.unwrap();
    store
        .save(key(2), value(2), None, Duration::ZERO)
        .await
        .unwrap();
    drop(store);

    let store = RedbStore::open(&path).await.unwrap();
    let stored = store.load(key(1)).await.unwrap().unwrap();

    assert_eq!(Saved::Yes(stored.revision), saved);
    assert_eq!(store.load(key(2)).await, Ok(None));
    let later = store.save(key(2), value(2), None, DAY).await.unwrap();
    assert!(later != saved && later != Saved::Conflict);
}

#[tokio::test]
async fn n5_a_file_that_is_no_store_or_somebody_elses_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let kind = async |path: &Path| RedbStore::open(path).await.unwrap_err().kind();

    let garbage = directory.path().join("garbage");
    std::fs::write(&garbage, [0x5a; 100_000]).unwrap();
    assert_eq!(kind(&garbage).await, StoreErrorKind::Corrupt);

    let path = directory.path().join("sessions");
    let store = RedbStore::open(&path).await.unwrap();
    assert_eq!(kind(&path).await, StoreErrorKind::Unavailable);
    drop(store);
    assert!(RedbStore::open(&path).await.is_ok());
    assert_eq!(kind(directory.path()).await, StoreErrorKind::Unavailable);
}

#[cfg(unix)]
#[tokio::test]
async fn l1_the_file_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sessions");
    let store = RedbStore::open(&path).await;
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    drop(store);
}

/// Not a test: the process that may not write large files.
#[tokio::test]
#[ignore = "run by the test below, in a process of its own"]
async fn child_on_a_full_disk() {
    let Some(path) = std::env::var_os(FILE) else {
        return;
    };
    let store = RedbStore::open(path).await.unwrap();
    let mut saved = Vec::new();
    let full = loop {
        let next = StoreKey::from_bytes([saved.len() as u8; 32]);
        match store.save(next, vec![7; 500_000].into(), None, DAY).await {
            Ok(_) => saved.push(next),
            Err(error) => break error,
        }
    };
    assert_eq!(full.kind(), StoreErrorKind::Full);
    assert!(!saved.is_empty());
    for key in &saved {
        assert!(store.load(*key).await.unwrap().is_some());
    }

    let pid = std::process::id().to_string();
    let room = Command::new("prlimit")
        .args(["--fsize=unlimited", "--pid", &pid])
        .status();
    assert!(room.unwrap().success());

    let next = StoreKey::from_bytes([0xff; 32]);
    let again = store.save(next, vec![7; 500_000].into(), None, DAY).await;
    assert!(matches!(again, Ok(Saved::Yes(_))), "{again:?}");
    for key in saved {
        assert!(store.load(key).await.unwrap().is_some());
    }
}

#[cfg(target_os = "linux")]
#[test]
fn n5_a_full_disk_takes_nothing_loses_nothing_and_may_have_room_again() {
    let directory = tempfile::tempdir().unwrap();
    // The limit stands in for the end of the disk; its signal would end the process.
    let script = r#"trap '' XFSZ; ulimit -S -f 8192; exec "$0" "$@""#;
    let child = Command::new("bash")
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "redb::child_on_a_full_disk", "--ignored"])
        .env(FILE, directory.path().join("sessions"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(
        child.status.success() && said.contains("1 passed"),
        "{said}"
    );
}
