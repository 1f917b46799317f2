//! Event ids by the thousand.

/// The longest id that is kept, in bytes. No client sends a longer one back in a header.
const MAX_LEN: usize = 1024;

/// Event ids one after the other in one piece of memory, since they come with every event and
/// are hardly ever asked for.
#[derive(Default)]
pub(crate) struct EventIds {
    /// Before each id, its length.
    packed: Vec<u8>,
    /// Where the first of them is.
    start: usize,
    len: usize,
}

const PREFIX: usize = size_of::<u16>();

impl EventIds {
    pub(crate) fn push(&mut self, id: &[u8]) {
        if id.len() <= MAX_LEN {
            self.packed
                .extend_from_slice(&(id.len() as u16).to_ne_bytes());
            self.packed.extend_from_slice(id);
            self.len += 1;
        }
    }

    pub(crate) fn append(&mut self, other: &Self) {
        self.packed.extend_from_slice(&other.packed[other.start..]);
        self.len += other.len;
    }

    pub(crate) fn pop_first(&mut self) {
        if let Some(prefix) = self.packed[self.start..].first_chunk() {
            self.start += PREFIX + usize::from(u16::from_ne_bytes(*prefix));
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

    pub(crate) fn bytes(&self) -> usize {
        self.packed.len()
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether a client that decoded the stream may mean one of them.
    pub(crate) fn contains(&self, id: &[u8]) -> bool {
        self.iter()
            .any(|it| it == id || String::from_utf8_lossy(it).as_bytes() == id)
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.packed[self.start..];
        std::iter::from_fn(move || {
            let (len, after) = rest.split_first_chunk()?;
            let (id, after) = after.split_at_checked(u16::from_ne_bytes(*len).into())?;
            rest = after;
            Some(id)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k7_ids_leave_in_the_order_they_came() {
        let mut ids = EventIds::default();
        for round in 0..100 {
            let mut more = EventIds::default();
            (0..7).for_each(|n| more.push(format!("{round}/{n}").as_bytes()));
            more.push(&[b'x'; MAX_LEN + 1]);
            ids.append(&more);
            while ids.len() > 10 {
                ids.pop_first();
            }
            assert!(ids.contains(format!("{round}/6").as_bytes()));
            assert_eq!(
                ids.iter().count(),
                ids.len(),
                "as many as are counted in round {round}"
            );
        }
        assert!(ids.contains(b"98/4") && !ids.contains(b"98/3"));
        assert!(ids.packed.len() < 200);
    }
}
