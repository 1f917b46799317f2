//! How a fuzzer's bytes become bodies.

use arbitrary::Arbitrary;
use bytes::Bytes;

use crate::Step;

/// A text of words and arbitrary bytes, and where it is cut.
#[derive(Arbitrary, Debug)]
pub struct Pieces {
    text: Vec<Piece>,
    cuts: Vec<u8>,
}

#[derive(Arbitrary, Debug)]
enum Piece {
    /// One of the words that a target knows.
    Word(u8),
    /// The same word many times.
    Words(u8, u16),
    Bytes(Vec<u8>),
}

/// The largest chunk.
const MAX_CHUNK: usize = 64 << 10;

/// The word that a number stands for.
pub fn pick<T: Copy>(words: &[T], number: u8) -> T {
    words[usize::from(number) % words.len()]
}

impl Pieces {
    /// The text, if it is made of these words, as far as the limit lets it be.
    pub fn text(&self, words: &[&str], limit: usize) -> Vec<u8> {
        let mut text = Vec::new();
        for piece in &self.text {
            let (piece, times) = match piece {
                Piece::Word(number) => (pick(words, *number).as_bytes(), 1),
                // Seldom many, since that takes its time.
                Piece::Words(number, times) => (
                    pick(words, *number).as_bytes(),
                    1 << times.trailing_zeros().min(14),
                ),
                Piece::Bytes(bytes) => (&bytes[..], 1),
            };
            if text.len() + piece.len() * times <= limit {
                (0..times).for_each(|_| text.extend_from_slice(piece));
            }
        }
        text
    }

    /// The text in chunks, some of them empty.
    pub fn chunks(&self, words: &[&str], limit: usize) -> Vec<Bytes> {
        self.cut(self.text(words, limit))
    }

    /// Any text in chunks.
    pub fn cut(&self, text: Vec<u8>) -> Vec<Bytes> {
        let mut rest = Bytes::from(text);
        let mut chunks = Vec::new();
        for cut in &self.cuts {
            chunks.push(rest.split_to(rest.len().min(usize::from(*cut))));
        }
        while !rest.is_empty() {
            chunks.push(rest.split_to(rest.len().min(MAX_CHUNK)));
        }
        chunks
    }
}

/// How a body ends.
#[derive(Arbitrary, Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Clean,
    Trailers,
    Breaks,
    /// It does not.
    Hangs,
}

impl End {
    pub fn step(self) -> Option<Step> {
        match self {
            Self::Clean => None,
            Self::Trailers => Some(Step::Trailers(trailers())),
            Self::Breaks => Some(Step::Error(crate::BROKEN.0)),
            Self::Hangs => Some(Step::Pending),
        }
    }

    /// What a reader sees of it: nothing, trailers or not, or an error.
    pub fn seen(self) -> Option<Result<Option<http::HeaderMap>, testing::TestError>> {
        match self {
            Self::Clean => Some(Ok(None)),
            Self::Trailers => Some(Ok(Some(trailers()))),
            Self::Breaks => Some(Err(crate::BROKEN)),
            Self::Hangs => None,
        }
    }
}

fn trailers() -> http::HeaderMap {
    let trailer = http::HeaderName::from_static("x-trailer");
    http::HeaderMap::from_iter([(trailer, http::HeaderValue::from_static("1"))])
}
