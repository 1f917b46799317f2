//! The byte order mark at the beginning of a stream that goes on in another's body (rule G1).

use bytes::Bytes;

const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Leaves out the mark that a stream begins with, if it does.
pub(super) struct SkipByteOrderMark {
    /// How many bytes of it have come so far; `None` once it is clear whether there is one.
    seen: Option<usize>,
}

impl SkipByteOrderMark {
    /// For a stream that begins now.
    pub(super) fn new() -> Self {
        Self { seen: Some(0) }
    }

    /// For a stream whose beginning stays as it is.
    pub(super) fn not() -> Self {
        Self { seen: None }
    }

    /// What is left of the stream's next chunk.
    pub(super) fn skip(&mut self, mut chunk: Bytes) -> Bytes {
        let Some(seen) = self.seen else {
            return chunk;
        };
        let rest = &BYTE_ORDER_MARK[seen..];
        let same = rest.iter().zip(&chunk).take_while(|(a, b)| a == b).count();
        if same == rest.len() {
            self.seen = None;
            chunk.split_off(same)
        } else if same == chunk.len() {
            self.seen = Some(seen + same);
            Bytes::new()
        } else {
            // There is none, and what was held back for one is the stream's.
            self.seen = None;
            match seen {
                0 => chunk,
                _ => [&BYTE_ORDER_MARK[..seen], &chunk].concat().into(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g1_a_mark_is_left_out_however_it_is_cut_and_nothing_else_is() {
        for (stream, left) in [
            ("\u{feff}data", "data"),
            ("\u{feff}\u{feff}", "\u{feff}"),
            ("data\u{feff}", "data\u{feff}"),
            ("\u{fefe}data", "\u{fefe}data"),
            ("\u{ffff}", "\u{ffff}"),
            ("", ""),
        ] {
            for size in 1..=stream.len().max(1) {
                let mut skip = SkipByteOrderMark::new();
                let mut read = Vec::new();
                for chunk in stream.as_bytes().chunks(size) {
                    read.extend(skip.skip(Bytes::copy_from_slice(chunk)));
                    read.extend(skip.skip(Bytes::new()));
                }
                assert_eq!(read, left.as_bytes(), "{stream:?} in pieces of {size}");
            }
        }
        let mut not = SkipByteOrderMark::not();
        assert_eq!(not.skip(Bytes::from("\u{feff}")), "\u{feff}");
    }
}
