//! How a fuzzer's bytes become bodies.

use arbitrary::Arbitrary;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::Step;

/// A text of words and arbitrary bytes, and where it is cut.
#[derive(Arbitrary, Debug)]
pub struct Pieces {
    text: Vec<Piece>,
    cuts: Vec<Size>,
    /// How large the chunks after that are.
    rest: Size,
}

#[derive(Arbitrary, Debug)]
enum Piece {
    /// One of the words that a target knows.
    Word(u8),
    /// The same word many times.
    Words(u8, Size),
    /// The same word until so many bytes are full.
    Fill(u8, Size),
    Bytes(Vec<u8>),
}

/// The largest text.
pub const MAX_TEXT: usize = 4 << 20;

/// A number that an input names, so that it need not contain as many bytes: up to 4 Mi, but seldom
/// large, since that takes its time, and often close to a power of four, where limits are.
#[derive(Arbitrary, Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    magnitude: u8,
    more: u16,
}

impl Size {
    pub fn up_to(self, most: usize) -> usize {
        let power = 64 << (2 * self.magnitude.leading_ones());
        let more = usize::from(self.more);
        let size = match more % 2 {
            0 => (power * more) >> 16,
            _ => power - 8 + more / 2 % 17,
        };
        size.min(most)
    }
}

/// The word that a number stands for.
pub fn pick<T: Copy>(words: &[T], number: u8) -> T {
    words[usize::from(number) % words.len()]
}

impl Pieces {
    /// The text, if it is made of these words, as far as the limit lets it be.
    pub fn text(&self, words: &[&str], limit: usize) -> Vec<u8> {
        let mut text = Vec::new();
        for piece in &self.text {
            let room = limit - text.len();
            let word = |number: &u8| pick(words, *number).as_bytes();
            let (piece, bytes) = match piece {
                Piece::Word(number) => (word(number), word(number).len()),
                Piece::Words(number, times) => {
                    let word = word(number);
                    let times = times.up_to(room / word.len().max(1));
                    (word, times * word.len())
                }
                Piece::Fill(number, bytes) => (word(number), bytes.up_to(room)),
                Piece::Bytes(bytes) => (&bytes[..], bytes.len()),
            };
            if bytes <= room {
                text.extend(piece.iter().cycle().take(bytes));
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
            chunks.push(rest.split_to(cut.up_to(rest.len())));
        }
        // Not too many, since after each of them it may be looked at all that came.
        let size = self
            .rest
            .up_to(rest.len())
            .max(1 + rest.len().pow(2) / (1 << 28));
        while !rest.is_empty() {
            chunks.push(rest.split_to(rest.len().min(size)));
        }
        chunks
    }
}

/// Headers that nobody needs so many of: more than a transport lets through.
#[derive(Arbitrary, Debug)]
pub struct Flood {
    name: u8,
    many: Size,
    bytes: Size,
}

impl Flood {
    /// As many headers, of one of those names or each of its own.
    pub fn headers(&self, names: &[HeaderName]) -> HeaderMap {
        let name = names.get(usize::from(self.name) % (names.len() + 1));
        let many = self.many.up_to(2048);
        let bytes = self.bytes.up_to(MAX_TEXT / many.max(1));
        let mut headers = HeaderMap::new();
        for number in 0..many {
            let own = || HeaderName::try_from(format!("x-{number}")).expect("a name");
            // A cookie, if it is to be one.
            let value = format!("c{number}={}", "v".repeat(bytes));
            let value = HeaderValue::try_from(value).expect("a value");
            headers.append(name.cloned().unwrap_or_else(own), value);
        }
        headers
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
    pub fn seen(self) -> Option<Result<Option<HeaderMap>, testing::TestError>> {
        match self {
            Self::Clean => Some(Ok(None)),
            Self::Trailers => Some(Ok(Some(trailers()))),
            Self::Breaks => Some(Err(crate::BROKEN)),
            Self::Hangs => None,
        }
    }
}

fn trailers() -> HeaderMap {
    let trailer = HeaderName::from_static("x-trailer");
    HeaderMap::from_iter([(trailer, HeaderValue::from_static("1"))])
}
