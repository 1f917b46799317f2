//! Data of a body, held in the frames they came in and in little more memory than they have.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// How many frames are held as they came. Of those that follow, small ones are joined: each alone
/// takes up more than it holds.
const AS_THEY_CAME: usize = 64;
/// How many frames are read at once. A body that is always ready then lets others run, and time-outs
/// fire. Tokio's budget would be used up by it, and not leave anything to a time-out of its task.
pub(super) const AT_ONCE: usize = 64;
/// A frame of that many bytes is not small.
const LARGE: usize = 4096;
/// What a frame without data counts for, in bytes.
pub(crate) const EMPTY_FRAME: usize = 64;

/// The frames of a body as they are read.
///
/// The first one takes no allocation; nearly every body has no other.
#[derive(Default)]
pub(super) struct Frames {
    first: Option<Bytes>,
    more: VecDeque<Bytes>,
    joined: BytesMut,
    counted: usize,
}

impl Frames {
    pub(super) fn push(&mut self, data: Bytes) {
        if data.is_empty() {
            self.counted = self.counted.saturating_add(EMPTY_FRAME);
            return;
        }
        self.counted = self.counted.saturating_add(data.len());
        if self.first.is_none() && self.more.is_empty() {
            self.first = Some(data);
        } else if self.more.len() < AS_THEY_CAME {
            self.more.push_back(data);
        } else if data.len() < LARGE {
            self.joined.extend_from_slice(&data);
            if self.joined.len() >= LARGE {
                self.end_joined();
            }
        } else {
            self.end_joined();
            self.more.push_back(data);
        }
    }

    fn end_joined(&mut self) {
        if !self.joined.is_empty() {
            self.more
                .push_back(std::mem::take(&mut self.joined).freeze());
        }
    }

    /// How many bytes were read, where a frame without data counts for some, too: otherwise a body
    /// of nothing else would never be too large.
    pub(super) fn counted(&self) -> usize {
        self.counted
    }

    /// Takes the first of the frames that are left.
    pub(super) fn pop(&mut self) -> Option<Bytes> {
        self.end_joined();
        self.first.take().or_else(|| self.more.pop_front())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none() && self.more.is_empty() && self.joined.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let joined = (!self.joined.is_empty()).then_some(&*self.joined);
        let frames = self.first.iter().chain(&self.more).map(|frame| &**frame);
        frames.chain(joined)
    }

    /// The only frame, or all of them.
    pub(super) fn into_one_or_many(mut self) -> Result<Bytes, Vec<Bytes>> {
        self.end_joined();
        match self.first {
            None => Ok(Bytes::new()),
            Some(first) if self.more.is_empty() => Ok(first),
            Some(first) => {
                self.more.push_front(first);
                Err(self.more.into())
            }
        }
    }

    /// The data in one piece and not more than `limit` bytes, copied only if they came in several.
    pub(super) fn bytes(&self, limit: usize) -> Bytes {
        match &self.first {
            Some(only) if self.more.is_empty() && self.joined.is_empty() => {
                only.slice(..only.len().min(limit))
            }
            _ => {
                let mut whole = BytesMut::new();
                for frame in self.iter() {
                    let left = limit - whole.len();
                    whole.extend_from_slice(&frame[..frame.len().min(left)]);
                }
                whole.freeze()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(sizes: impl IntoIterator<Item = usize>) -> (Frames, Vec<u8>) {
        let (mut frames, mut whole) = (Frames::default(), Vec::new());
        for (nth, size) in sizes.into_iter().enumerate() {
            let data = vec![nth as u8; size];
            whole.extend_from_slice(&data);
            frames.push(data.into());
        }
        (frames, whole)
    }

    #[test]
    #[cfg_attr(miri, ignore = "it takes too long")]
    fn k_tiny_frames_take_up_no_more_than_their_data_come_to() {
        let (frames, whole) = frames(std::iter::repeat_n(1, 1_000_000));
        assert_eq!(frames.counted(), 1_000_000);
        assert_eq!(frames.bytes(usize::MAX), whole);
        assert!(frames.more.len() < AS_THEY_CAME + 1 + 1_000_000 / LARGE);
    }

    #[test]
    fn k_frames_without_data_count_and_are_not_held() {
        let (frames, _) = frames([0; 1_000]);
        assert_eq!(
            (frames.counted(), frames.is_empty()),
            (1_000 * EMPTY_FRAME, true)
        );
    }

    #[test]
    fn f7_whatever_the_frames_the_data_are_the_same_in_the_same_order() {
        for sizes in [
            vec![],
            vec![5],
            vec![5, 0, 7],
            vec![LARGE; 80],
            (0..500).map(|nth| nth * 31 % 9000).collect(),
            [vec![1; 200], vec![LARGE], vec![1; 3]].concat(),
        ] {
            let (mut popped, whole) = frames(sizes.iter().copied());
            assert_eq!(popped.bytes(usize::MAX), whole);
            assert_eq!(popped.bytes(9), whole[..whole.len().min(9)]);
            assert_eq!(popped.iter().collect::<Vec<_>>().concat(), whole);
            let all: Vec<_> = std::iter::from_fn(|| popped.pop()).collect();
            assert_eq!(all.concat(), whole);
            assert!(popped.is_empty());

            let many = match frames(sizes).0.into_one_or_many() {
                Ok(one) => vec![one],
                Err(many) => many,
            };
            assert_eq!(many.concat(), whole);
        }
    }

    #[test]
    fn f7_data_in_one_piece_are_not_copied() {
        let piece = Bytes::from_static(b"piece");
        let mut frames = Frames::default();
        frames.push(piece.clone());
        assert_eq!(frames.bytes(3).as_ptr(), piece.as_ptr());
        let only = frames.into_one_or_many().expect("one");
        assert_eq!(only.as_ptr(), piece.as_ptr());
    }

    #[test]
    fn f7_a_few_frames_stay_as_they_came() {
        let (frames, _) = frames([3, 0, 1, 1, 900]);
        let sizes: Vec<_> = frames.iter().map(<[u8]>::len).collect();
        assert_eq!(sizes, [3, 1, 1, 900]);
    }
}
