//! Event ids by the thousand.

use std::{
    borrow::Cow,
    collections::VecDeque,
    hash::{DefaultHasher, Hash, Hasher},
};

/// The longest id that is kept as it is, in bytes. Of a longer one a digest of this size is.
const MAX_LEN: usize = 48;
/// What comes before each id: its length, and how many answers came before it.
const PREFIX: usize = size_of::<u8>() + size_of::<u16>();

/// Event ids one after the other in one piece of memory, since they come with every event and
/// are hardly ever asked for.
#[derive(Default)]
pub(crate) struct EventIds {
    packed: VecDeque<u8>,
    len: usize,
}

/// An id as it is kept.
pub(crate) struct PackedId<'a>(Cow<'a, [u8]>);

impl<'a> PackedId<'a> {
    /// Clients send an id back as they decoded it, so an id that is no Unicode is kept like that.
    pub(crate) fn new(id: &'a [u8]) -> Self {
        let id = match std::str::from_utf8(id) {
            Ok(_) => Cow::Borrowed(id),
            Err(_) => Cow::Owned(String::from_utf8_lossy(id).into_owned().into()),
        };
        match id.len() {
            0..MAX_LEN => Self(id),
            _ => Self(Cow::Owned(digest(&id).into())),
        }
    }
}

/// So long that no id that is kept as it is can be the same.
fn digest(id: &[u8]) -> [u8; MAX_LEN] {
    let mut digest = [0; MAX_LEN];
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
        let PackedId(id) = PackedId::new(id);
        // At most `MAX_LEN`.
        self.packed.push_back(id.len() as u8);
        let answered = u16::try_from(answered).unwrap_or(u16::MAX);
        self.packed.extend(answered.to_ne_bytes());
        self.packed.extend(&*id);
        self.len += 1;
    }

    pub(crate) fn append(&mut self, other: &Self) {
        let (one, two) = other.packed.as_slices();
        self.packed.extend(one);
        self.packed.extend(two);
        self.len += other.len;
    }

    pub(crate) fn pop_first(&mut self) {
        if let Some(len) = self.packed.front() {
            let end = PREFIX + usize::from(*len);
            self.packed.drain(..end);
            self.len -= 1;
        }
    }

    pub(crate) fn clear(&mut self) {
        self.packed.clear();
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
        self.packed.len()
    }

    /// How many answers came before an id; before the last one, if it came more than once.
    pub(crate) fn find(&self, id: &PackedId<'_>) -> Option<usize> {
        let (one, two) = self.packed.as_slices();
        let mut found = None;
        let mut at = 0;
        while at < self.packed.len() {
            let byte = |at: usize| self.packed[at];
            let start = at + PREFIX;
            let end = start + usize::from(byte(at));
            let is_it = match (one.get(start..end), start.checked_sub(one.len())) {
                (Some(it), _) => *it == *id.0,
                (None, Some(start)) => two[start..end - one.len()] == *id.0,
                (None, None) => {
                    let (head, tail) = (&one[start..], &two[..end - one.len()]);
                    id.0.len() == head.len() + tail.len()
                        && id.0.starts_with(head)
                        && id.0.ends_with(tail)
                }
            };
            if is_it {
                found = Some(u16::from_ne_bytes([byte(at + 1), byte(at + 2)]).into());
            }
            at = end;
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(ids: &EventIds, id: &[u8]) -> Option<usize> {
        ids.find(&PackedId::new(id))
    }

    #[test]
    fn k7_ids_leave_in_the_order_they_came() {
        let mut ids = EventIds::default();
        let long = "x".repeat(2000);
        for round in 0..100 {
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
        assert_eq!(find(&ids, b"98/4"), Some(4));
        assert_eq!(find(&ids, b"98/3"), None);
        assert!(ids.bytes() < 1000 && ids.packed.capacity() < 4096);
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
