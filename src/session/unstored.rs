//! What a store has not been told of a session's state (rules H1, N3).

use super::StateChange;

/// The changes that the server has accepted since the store last knew the state, the last one of each
/// subject. They are kept as they came: a change that alters nothing of what this process knows may
/// alter what another one does.
#[derive(Default)]
pub(super) struct Unstored {
    changes: Vec<(u64, StateChange)>,
    noted: u64,
}

/// How many are kept while the store is away, and what they may hold, in bytes. The first go first.
const MAX_CHANGES: usize = 2048;
const MAX_BYTES: usize = 512 * 1024;

impl Unstored {
    pub(super) fn note(&mut self, change: StateChange) {
        self.changes.retain(|(_, it)| !it.is_undone_by(&change));
        self.noted += 1;
        self.changes.push((self.noted, change));
        while self.changes.len() > MAX_CHANGES || self.bytes() > MAX_BYTES {
            self.changes.remove(0);
        }
    }

    /// How many have been noted so far.
    pub(super) fn noted(&self) -> u64 {
        self.noted
    }

    /// The store has all that had been noted then.
    pub(super) fn stored(&mut self, noted: u64) {
        self.changes.retain(|(number, _)| *number > noted);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    pub(super) fn changes(&self) -> Vec<StateChange> {
        self.changes.iter().map(|(_, it)| it.clone()).collect()
    }

    /// What they take up besides themselves, about, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let texts = self.changes.iter().map(|(_, it)| it.text().len());
        texts.sum::<usize>() + self.changes.len() * size_of::<(u64, StateChange)>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subscribe(uri: &str) -> StateChange {
        StateChange::Subscribe(uri.to_owned())
    }

    fn unsubscribe(uri: &str) -> StateChange {
        StateChange::Unsubscribe(uri.to_owned())
    }

    fn level(level: &str) -> StateChange {
        StateChange::LogLevel(level.to_owned())
    }

    #[test]
    fn h1_n3_the_last_change_of_each_subject_is_kept_until_it_is_stored() {
        let mut unstored = Unstored::default();
        for change in [
            subscribe("a"),
            level("info"),
            subscribe("b"),
            unsubscribe("a"),
        ] {
            unstored.note(change);
        }
        let noted = unstored.noted();
        assert_eq!(
            unstored.changes(),
            [level("info"), subscribe("b"), unsubscribe("a")]
        );
        // What comes while the store is told stays,
        unstored.note(level("error"));
        unstored.note(unsubscribe("b"));
        unstored.stored(noted);
        assert_eq!(unstored.changes(), [level("error"), unsubscribe("b")]);
        // until that is stored, too.
        unstored.stored(unstored.noted());
        assert!(unstored.is_empty() && unstored.bytes() == 0);
    }

    #[test]
    fn k10_changes_that_are_not_stored_are_bounded_in_number_and_in_bytes() {
        let mut unstored = Unstored::default();
        for number in 0..3 * MAX_CHANGES {
            unstored.note(unsubscribe(&number.to_string()));
        }
        assert_eq!(unstored.changes().len(), MAX_CHANGES);
        assert!(unstored.bytes() >= MAX_CHANGES * size_of::<StateChange>());
        for number in 0..100 {
            unstored.note(unsubscribe(&format!("{number}{}", "x".repeat(8000))));
        }
        assert!(unstored.bytes() <= MAX_BYTES && unstored.bytes() > MAX_BYTES - 9000);
    }
}
