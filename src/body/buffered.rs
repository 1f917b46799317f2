//! A request body that is held, so that it can be looked at and sent again (rules K1, F7).

use std::{borrow::Cow, mem, sync::Arc};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;

use super::frames::Frames;

/// A whole request body, kept in the frames it came in. Cloning it copies no data.
#[derive(Clone, Default)]
pub(crate) struct BufferedBody {
    data: Data,
    /// Rare, and large.
    trailers: Option<Box<HeaderMap>>,
}

/// Nearly every body is one frame, which needs no allocation to be kept.
#[derive(Clone)]
enum Data {
    One(Bytes),
    Many(Arc<[Bytes]>),
}

impl Default for Data {
    fn default() -> Self {
        Self::One(Bytes::new())
    }
}

impl BufferedBody {
    pub(super) fn new(frames: Frames, trailers: Option<HeaderMap>) -> Self {
        let data = match frames.into_one_or_many() {
            Ok(one) => Data::One(one),
            Err(many) => Data::Many(many.into()),
        };
        let trailers = trailers.map(Box::new);
        Self { data, trailers }
    }

    /// The next frame to be sent, of which so many have been.
    pub(super) fn next(&mut self, sent: &mut usize) -> Option<Frame<Bytes>> {
        while *sent < self.frames().len() {
            let frame = match &mut self.data {
                Data::One(bytes) => mem::take(bytes),
                Data::Many(frames) => frames[*sent].clone(),
            };
            *sent += 1;
            if !frame.is_empty() {
                return Some(Frame::data(frame));
            }
        }
        let trailers = self.trailers.take();
        trailers.map(|trailers| Frame::trailers(*trailers))
    }

    /// The number of bytes that are left of it then.
    pub(super) fn unsent(&self, sent: usize) -> u64 {
        let frames = self.frames().get(sent..).unwrap_or_default();
        frames.iter().map(|frame| frame.len() as u64).sum()
    }

    pub(super) fn has_trailers(&self) -> bool {
        self.trailers.is_some()
    }

    pub(super) fn frames(&self) -> &[Bytes] {
        match &self.data {
            Data::One(bytes) => std::slice::from_ref(bytes),
            Data::Many(frames) => frames,
        }
    }

    /// All data in one piece; copied only if it came in several.
    #[inline]
    pub(crate) fn data(&self) -> Cow<'_, [u8]> {
        match &self.data {
            Data::One(bytes) => Cow::Borrowed(bytes),
            Data::Many(frames) => Cow::Owned(frames.concat()),
        }
    }

    /// The first data of it, and no more than is enough to see what it may be.
    pub(crate) fn beginning(&self) -> Cow<'_, [u8]> {
        const ENOUGH: usize = 512;
        match self.frames() {
            [] => Cow::Borrowed(&[]),
            [first, rest @ ..] if rest.is_empty() || first.len() >= ENOUGH => {
                Cow::Borrowed(&first[..first.len().min(ENOUGH)])
            }
            many => {
                let bytes = many.iter().flat_map(|frame| frame.iter());
                bytes.take(ENOUGH).copied().collect()
            }
        }
    }

    /// The number of bytes of data.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        match &self.data {
            Data::One(bytes) => bytes.len(),
            Data::Many(frames) => frames.iter().map(Bytes::len).sum(),
        }
    }
}

impl From<Bytes> for BufferedBody {
    fn from(bytes: Bytes) -> Self {
        Self {
            data: Data::One(bytes),
            trailers: None,
        }
    }
}
