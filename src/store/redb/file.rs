//! The file, and what is read from and written to it.

use std::{
    fs::OpenOptions,
    io,
    path::PathBuf,
    sync::{PoisonError, RwLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use redb::{
    Database, Error, ReadableDatabase, ReadableTable, Table, TableDefinition, backends::FileBackend,
};

use crate::store::{LONGEST_TTL, Revision, StoreError, StoreErrorKind, StoreKey, Stored};

type Key = &'static [u8; 32];
/// When it expires, its revision, its bytes.
type Value = (u64, u64, &'static [u8]);

const VALUES: TableDefinition<'_, Key, Value> = TableDefinition::new("values");
const BY_EXPIRY: TableDefinition<'_, (u64, Key), ()> = TableDefinition::new("by_expiry");
/// One row: the last revision that was given to any key.
const LAST_REVISION: TableDefinition<'_, (), u64> = TableDefinition::new("last_revision");

/// How many values are expired with each write.
const EXPIRED_AT_ONCE: usize = 128;

/// The file, open unless it failed.
pub(super) struct StoreFile {
    path: PathBuf,
    database: RwLock<Option<Database>>,
}

/// What is to be written.
pub(super) enum Change {
    Save {
        key: StoreKey,
        value: Bytes,
        expected: Option<Revision>,
        ttl: Duration,
    },
    Remove {
        key: StoreKey,
    },
}

/// The revision of what was saved.
pub(super) type Changed = Option<Revision>;

impl StoreFile {
    pub(super) fn open(path: PathBuf) -> Result<Self, StoreError> {
        let database = RwLock::new(Some(open(&path)?));
        Ok(Self { path, database })
    }

    pub(super) fn read(&self, key: &StoreKey) -> Result<Option<Stored>, StoreError> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        read(database.as_ref().ok_or(CLOSED)?, key).map_err(|error| told(&error))
    }

    /// Writes the changes, all of them or none, and gives what became of each.
    pub(super) fn write(&self, changes: &[Change]) -> Result<Vec<Changed>, StoreError> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let written = match database.as_ref() {
            Some(database) => write(database, changes),
            None => {
                drop(database);
                return self.reopen().and_then(|()| self.write(changes));
            }
        };
        drop(database);
        written.map_err(|error| {
            // A database that has failed once refuses everything until it is opened anew. If that
            // fails, too, the next write tries again.
            let _ = self.reopen();
            told(&error)
        })
    }

    fn reopen(&self) -> Result<(), StoreError> {
        let mut database = self
            .database
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        // The old one has the lock of the file.
        *database = None;
        *database = Some(open(&self.path)?);
        Ok(())
    }
}

const CLOSED: StoreError = StoreError::new(StoreErrorKind::Unavailable, "its file has failed");

fn open(path: &PathBuf) -> Result<Database, StoreError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let opened = || -> Result<Database, Error> {
        let file = options.open(path).map_err(Error::Io)?;
        let database = Database::builder()
            .set_check_integrity_on_open(true)
            .create_with_backend(FileBackend::new(file)?)?;
        // A read of a table that was never written would be an error.
        let transaction = database.begin_write()?;
        transaction.open_table(VALUES)?;
        transaction.open_table(BY_EXPIRY)?;
        transaction.open_table(LAST_REVISION)?;
        transaction.commit()?;
        Ok(database)
    };
    opened().map_err(|error| told(&error))
}

fn read(database: &Database, key: &StoreKey) -> Result<Option<Stored>, Error> {
    let transaction = database.begin_read()?;
    let values = transaction.open_table(VALUES)?;
    let Some(row) = values.get(key.as_bytes())? else {
        return Ok(None);
    };
    let (expires, revision, value) = row.value();
    Ok((expires > now()).then(|| Stored {
        value: Bytes::copy_from_slice(value),
        revision: Revision::new(revision),
    }))
}

fn write(database: &Database, changes: &[Change]) -> Result<Vec<Changed>, Error> {
    let transaction = database.begin_write()?;
    let (outcomes, changed) = {
        let mut rows = Rows {
            values: transaction.open_table(VALUES)?,
            by_expiry: transaction.open_table(BY_EXPIRY)?,
            last_revision: transaction.open_table(LAST_REVISION)?,
            changed: false,
        };
        rows.expire()?;
        let outcomes: Result<Vec<_>, _> = changes.iter().map(|change| rows.apply(change)).collect();
        (outcomes?, rows.changed)
    };
    if changed {
        transaction.commit()?;
    } else {
        // Nothing to synchronize.
        transaction.abort()?;
    }
    Ok(outcomes)
}

/// The tables, in a transaction that writes.
struct Rows<'a> {
    values: Table<'a, Key, Value>,
    by_expiry: Table<'a, (u64, Key), ()>,
    last_revision: Table<'a, (), u64>,
    changed: bool,
}

impl Rows<'_> {
    fn apply(&mut self, change: &Change) -> Result<Changed, Error> {
        let (key, value, expected, ttl) = match change {
            Change::Remove { key } => {
                self.remove(key)?;
                return Ok(None);
            }
            Change::Save {
                key,
                value,
                expected,
                ttl,
            } => (key, value, *expected, *ttl),
        };
        let now = now();
        let current = self.values.get(key.as_bytes())?.and_then(|row| {
            let (expires, revision, _) = row.value();
            (expires > now).then_some(Revision::new(revision))
        });
        if current != expected {
            return Ok(None);
        }
        self.remove(key)?;
        let revision = self.last_revision.get(())?.map_or(0, |row| row.value()) + 1;
        self.last_revision.insert((), revision)?;
        let expires = now.saturating_add(millis(ttl.min(LONGEST_TTL)));
        self.values
            .insert(key.as_bytes(), (expires, revision, &**value))?;
        self.by_expiry.insert((expires, key.as_bytes()), ())?;
        self.changed = true;
        Ok(Some(Revision::new(revision)))
    }

    fn remove(&mut self, key: &StoreKey) -> Result<(), Error> {
        let removed = self.values.remove(key.as_bytes())?;
        let Some(expires) = removed.map(|row| row.value().0) else {
            return Ok(());
        };
        self.by_expiry.remove((expires, key.as_bytes()))?;
        self.changed = true;
        Ok(())
    }

    fn expire(&mut self) -> Result<(), Error> {
        let now = now();
        for _ in 0..EXPIRED_AT_ONCE {
            let first = self.by_expiry.first()?.map(|(row, _)| {
                let (expires, key) = row.value();
                (expires, StoreKey::from_bytes(*key))
            });
            match first {
                Some((expires, key)) if expires <= now => self.remove(&key)?,
                _ => break,
            }
        }
        Ok(())
    }
}

/// Milliseconds of the clock on the wall, the only one that goes on from process to process.
fn now() -> u64 {
    millis(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default(),
    )
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What may be told of an error: its text may hold the name of a file.
fn told(error: &Error) -> StoreError {
    let (kind, reason) = match error {
        Error::DatabaseAlreadyOpen | Error::LockProtocolMismatch => (
            StoreErrorKind::Unavailable,
            "its file is open in another process",
        ),
        Error::Corrupted(_) | Error::UpgradeRequired(_) | Error::TableTypeMismatch { .. } => {
            (StoreErrorKind::Corrupt, NOT_A_STORE)
        }
        Error::ValueTooLarge(_) => (StoreErrorKind::Full, "a value is too large"),
        Error::Io(error) => match error.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => (StoreErrorKind::Full, "its disk is full"),
            io::ErrorKind::InvalidData => (StoreErrorKind::Corrupt, NOT_A_STORE),
            _ => (
                StoreErrorKind::Unavailable,
                "its file cannot be read or written",
            ),
        },
        _ => (StoreErrorKind::Unavailable, "its file has failed"),
    };
    StoreError::new(kind, reason)
}

const NOT_A_STORE: &str = "its file is damaged, or no store";

#[cfg(test)]
mod tests {
    use redb::{ReadableTableMetadata, backends::InMemoryBackend};

    use super::*;

    fn save(number: u8, ttl: Duration) -> Change {
        Change::Save {
            key: StoreKey::from_bytes([number; 32]),
            value: Bytes::from_static(b"value"),
            expected: None,
            ttl,
        }
    }

    #[test]
    fn n6_what_has_expired_is_removed_with_the_next_write() {
        // Given values of which some have expired,
        let day = Duration::from_secs(86_400);
        let database = Database::builder().create_with_backend(InMemoryBackend::new());
        let database = database.unwrap();
        let changes = [
            save(1, Duration::ZERO),
            save(2, day),
            save(3, Duration::ZERO),
        ];
        assert!(
            write(&database, &changes)
                .unwrap()
                .iter()
                .all(Option::is_some)
        );

        // when another is written,
        write(&database, &[save(4, day)]).unwrap();

        // then they take no room any more.
        let transaction = database.begin_read().unwrap();
        let values = transaction.open_table(VALUES).unwrap();
        let by_expiry = transaction.open_table(BY_EXPIRY).unwrap();
        assert_eq!((values.len().unwrap(), by_expiry.len().unwrap()), (2, 2));
    }
}
