//! Event ids by the thousand.

use std::hash::{DefaultHasher, Hash, Hasher};

/// The longest id that is kept as it is, in bytes. Of a longer one a digest is.
const MAX_LEN: usize = DIGEST - 1;
const DIGEST: usize = 48;
/// What all of them may take up, in bytes (rule K7): those that came first make room.
pub(crate) const MAX_ID_BYTES: usize = 64 * 1024;
/// What comes before each id: its length, and how many answers came before it.
const PREFIX: usize = size_of::<u8>() + size_of::<u16>();

/// Event ids one after the other in one piece of memory, since they come with every event and
/// are hardly ever asked for.
#[derive(Default)]
pub(crate) struct EventIds {
    packed: Vec<u8>,
    /// Where the first of them is.
    start: usize,
    len: usize,
}

/// An id that is looked for, as a client sent it: decoded, so that what was no Unicode is none any
/// more.
pub(crate) struct AskedId<'a> {
    id: &'a [u8],
    /// What is kept of a long one.
    digest: [u8; DIGEST],
}

impl<'a> AskedId<'a> {
    pub(crate) fn new(id: &'a [u8]) -> Self {
        let digest = digest(id);
        Self { id, digest }
    }

    fn is(&self, kept: &[u8]) -> bool {
        kept == self.id
            || kept == self.digest
            || std::str::from_utf8(kept).is_err()
                && kept.len() < DIGEST
                && String::from_utf8_lossy(kept).as_bytes() == self.id
    }
}

fn digest(id: &[u8]) -> [u8; DIGEST] {
    let mut digest = [0; DIGEST];
    for (salt, place) in digest.chunks_exact_mut(size_of::<u64>()).enumerate() {
        let mut hasher = DefaultHasher::new();
        (salt, id).hash(&mut hasher);
        place.copy_from_slice(&hasher.finish().to_ne_bytes());
    }
    digest
}

impl EventIds {
    /// Adds an id that came after so many answers.
    pub(crate) fn push(&mut self, id: &[u8], answered: usize) {
        match id.len() {
            0..=MAX_LEN => self.add(id, answered),
            _ => self.add(&digest(String::from_utf8_lossy(id).as_bytes()), answered),
        }
    }

    fn add(&mut self, id: &[u8], answered: usize) {
        let [low, high] = u16::try_from(answered).unwrap_or(u16::MAX).to_le_bytes();
        // At most `DIGEST`.
        self.packed.extend_from_slice(&[id.len() as u8, low, high]);
        self.packed.extend_from_slice(id);
        self.len += 1;
        while self.bytes() > MAX_ID_BYTES {
            self.pop_first();
        }
    }

    pub(crate) fn append(&mut self, other: &Self) {
        self.packed.extend_from_slice(&other.packed[other.start..]);
        self.len += other.len;
    }

    pub(crate) fn pop_first(&mut self) {
        if let Some(len) = self.packed.get(self.start) {
            self.start += PREFIX + usize::from(*len);
            self.len -= 1;
        }
        // Moved down now and then, so that it costs next to nothing for each id.
        if self.start > self.packed.len() / 2 {
            self.packed.drain(..self.start);
            self.start = 0;
        }
    }

    pub(crate) fn clear(&mut self) {
        self.packed.clear();
        self.start = 0;
        self.len = 0;
    }

    /// Gives memory back that a burst took.
    pub(crate) fn shrink(&mut self) {
        if self.packed.capacity() > 4 * self.packed.len().max(64) {
            self.packed.shrink_to(2 * self.packed.len());
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What they take up, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.packed.len() - self.start
    }

    /// How many answers came before an id; before the last one, if it came more than once.
    pub(crate) fn find(&self, asked: &AskedId<'_>) -> Option<usize> {
        let mut found = None;
        let mut rest = &self.packed[self.start..];
        while let Some(([len, low, high], after)) = rest.split_first_chunk() {
            let (id, after) = after.split_at_checked(usize::from(*len))?;
            if asked.is(id) {
                found = Some(u16::from_le_bytes([*low, *high]).into());
            }
            rest = after;
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(ids: &EventIds, id: &[u8]) -> Option<usize> {
        ids.find(&AskedId::new(id))
    }

    #[test]
    fn k7_ids_that_come_all_at_once_are_bounded() {
        let mut ids = EventIds::default();
        (0..MAX_ID_BYTES).for_each(|n| ids.push(n.to_string().as_bytes(), 0));
        assert!(ids.bytes() <= MAX_ID_BYTES && ids.packed.capacity() <= 4 * MAX_ID_BYTES);
        assert_eq!(
            find(&ids, (MAX_ID_BYTES - 1).to_string().as_bytes()),
            Some(0)
        );
        assert_eq!(find(&ids, b"0"), None);
    }

    #[test]
    fn k7_ids_leave_in_the_order_they_came() {
        let mut ids = EventIds::default();
        let (rounds, long) = match cfg!(miri) {
            true => (6, "x".repeat(200)),
            false => (100, "x".repeat(2000)),
        };
        for round in 0..rounds {
            let mut more = EventIds::default();
            (0..6).for_each(|n| more.push(format!("{round}/{n}").as_bytes(), n));
            more.push(format!("{long}{round}").as_bytes(), 6);
            ids.append(&more);
            while ids.len() > 10 {
                ids.pop_first();
            }
            for n in 0..6 {
                assert_eq!(find(&ids, format!("{round}/{n}").as_bytes()), Some(n));
            }
            assert_eq!(find(&ids, format!("{long}{round}").as_bytes()), Some(6));
            assert_eq!(find(&ids, long.as_bytes()), None);
        }
        let before = rounds - 2;
        assert_eq!(find(&ids, format!("{before}/4").as_bytes()), Some(4));
        assert_eq!(find(&ids, format!("{before}/3").as_bytes()), None);
        assert!(ids.bytes() < 1000 && ids.packed.capacity() < 4096);
    }

    #[test]
    fn k7_what_ids_take_up_is_what_counts() {
        let mut ids = EventIds::default();
        ids.push(b"one", 0);
        ids.push(&[b'x'; 2000], 1);
        assert_eq!(ids.bytes(), 2 * PREFIX + 3 + DIGEST);
        let mut more = EventIds::default();
        more.push(b"three", 2);
        ids.append(&more);
        ids.pop_first();
        assert_eq!(ids.bytes(), 2 * PREFIX + DIGEST + 5);
        ids.clear();
        assert_eq!((ids.bytes(), ids.len(), find(&ids, b"three")), (0, 0, None));
        ids.push(b"four", 0);
        assert_eq!((find(&ids, b"four"), ids.len()), (Some(0), 1));
    }

    #[test]
    fn k7_memory_that_a_burst_took_is_given_back_and_no_other() {
        let mut ids = EventIds::default();
        (0..1_000).for_each(|n| ids.push(format!("a longer one, {n}").as_bytes(), 0));
        (0..994).for_each(|_| ids.pop_first());
        ids.shrink();
        let (held, capacity) = (ids.packed.len(), ids.packed.capacity());
        assert!(
            held > 64 && (2 * held..=4 * held).contains(&capacity),
            "{held} in {capacity}"
        );
        // There is room for more now, which is not taken away.
        ids.packed.reserve_exact(2 * held);
        ids.shrink();
        assert_eq!(ids.packed.capacity(), 3 * held);
    }

    #[test]
    fn g3_an_id_that_is_no_unicode_is_found_however_long_it_is() {
        let mut ids = EventIds::default();
        let longest = if cfg!(miri) { 12 } else { 100 };
        for len in 1..longest {
            ids.push(&vec![0xff; len], len);
        }
        for len in 1..longest {
            let sent = "\u{fffd}".repeat(len);
            assert_eq!(find(&ids, sent.as_bytes()), Some(len));
        }
    }

    #[test]
    fn g3_an_id_is_found_as_a_client_decoded_it() {
        let mut ids = EventIds::default();
        ids.push(b"a\xff\xc3", 0);
        ids.push("\u{e4}".as_bytes(), 1);
        ids.push("\u{e4}".as_bytes(), 2);
        assert_eq!(find(&ids, "a\u{fffd}\u{fffd}".as_bytes()), Some(0));
        assert_eq!(find(&ids, b"a\xff\xc3"), Some(0));
        assert_eq!(find(&ids, "\u{e4}".as_bytes()), Some(2), "the latest");
        assert_eq!(find(&ids, b"a"), None);
    }
}
