//! Sessions that outlive the proxy: where they are kept (feature `store`).

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::Args;
use mcp_session_recovery::{
    SessionRecoveryLayer, Sessions,
    store::{RedbStore, RedisStore, SealKey, Sealed, SessionStore},
};
use tracing::warn;

#[derive(Debug, Args)]
#[command(next_help_heading = "Sessions that outlive the proxy")]
pub struct StoreOptions {
    /// Where sessions are kept: a file for this proxy alone, or redis://HOST[:PORT][/DB] or
    /// rediss:// for any number of proxies. With @FILE that is read from a file, so that other
    /// users of this machine do not see a password in it
    #[arg(long, value_name = "FILE|URL|@FILE")]
    pub store: Option<String>,

    /// A file with the key that encrypts what is kept, 64 hexadecimal digits (openssl rand -hex 32).
    /// A second line is a key that only decrypts, while keys are changed
    #[arg(long, value_name = "FILE", requires = "store")]
    pub store_key_file: Option<PathBuf>,
}

/// How long the proxy waits for its store when it ends.
const PATIENCE: Duration = Duration::from_secs(5);

/// Lets the store have what it has not been told yet. The proxy is about to end.
pub async fn flush(sessions: &Sessions) {
    match tokio::time::timeout(PATIENCE, sessions.flush()).await {
        Ok(Ok(())) => {}
        Ok(Err(why)) => warn!("some sessions are not stored: {why}"),
        Err(_) => warn!("some sessions are not stored: no answer in time"),
    }
}

/// The layer with the store that the options name. No error repeats what they hold.
pub async fn with_store(
    layer: SessionRecoveryLayer,
    options: &StoreOptions,
) -> Result<SessionRecoveryLayer, String> {
    let Some(place) = &options.store else {
        return Ok(layer);
    };
    let place = match place.strip_prefix('@') {
        Some(file) => fs::read_to_string(file)
            .map_err(|why| format!("--store: its file cannot be read: {why}"))?,
        None => place.clone(),
    };
    let store = open(place.trim()).await?;
    let Some(file) = &options.store_key_file else {
        return Ok(layer.store(store));
    };
    let (key, older) = keys(file)?;
    let sealed = Sealed::new(store, key);
    Ok(match older {
        Some(older) => layer.store(sealed.also_open(older)),
        None => layer.store(sealed),
    })
}

async fn open(place: &str) -> Result<Arc<dyn SessionStore>, String> {
    if place.contains("://") {
        // For `rediss://`; it does no harm that somebody else has installed one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let store = RedisStore::connect(place).map_err(|why| format!("--store: {why}"))?;
        return Ok(Arc::new(store));
    }
    let store = RedbStore::open(place).await;
    Ok(Arc::new(store.map_err(|why| format!("--store: {why}"))?))
}

/// The key of the first line, and that of the second if there is one.
fn keys(file: &Path) -> Result<(SealKey, Option<SealKey>), String> {
    const WRONG: &str = "--store-key-file: 64 hexadecimal digits are wanted, on one line or two";
    let text = fs::read_to_string(file).map_err(|why| format!("--store-key-file: {why}"))?;
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let mut keys = lines.map(|line| SealKey::from_hex(line).ok_or(WRONG));
    let key = keys.next().ok_or(WRONG)??;
    let older = keys.next().transpose()?;
    match keys.next() {
        Some(_) => Err(WRONG.to_owned()),
        None => Ok((key, older)),
    }
}
