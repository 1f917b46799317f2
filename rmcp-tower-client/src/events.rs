//! Event streams, bounded event by event.

use bytes::{Buf, Bytes};
use futures_util::{StreamExt, stream::BoxStream};
use http_body::Body;
use http_body_util::BodyExt;
use rmcp::transport::streamable_http_client::SseError;
use sse_stream::{Sse, SseStream};

use crate::{Error, error::BoxError, resumption::Resumption};

pub(crate) type Events = BoxStream<'static, Result<Sse, SseError>>;

/// The events of a body. None is larger than `limit`.
pub(crate) fn read<R>(body: R, limit: usize, mut resumption: Resumption) -> Events
where
    R: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    let mut gauge = Gauge::new(limit);
    let bytes = body.into_data_stream().map(move |data| {
        let mut data = data.map_err(Error::body)?;
        let data: Bytes = data.copy_to_bytes(data.remaining());
        gauge.pass(&data)?;
        Ok::<_, Error>(data)
    });
    let events = SseStream::from_bytes_stream(bytes);
    events.inspect(move |event| resumption.saw(event)).boxed()
}

/// Measures events as they are kept while they are read: a line until it ends, fields until their
/// event ends, a comment no longer than its line.
struct Gauge {
    limit: usize,
    fields: usize,
    line: usize,
    is_comment: bool,
    after_cr: bool,
}

impl Gauge {
    fn new(limit: usize) -> Self {
        Self {
            limit,
            fields: 0,
            line: 0,
            is_comment: false,
            after_cr: false,
        }
    }

    fn pass(&mut self, bytes: &[u8]) -> Result<(), Error> {
        for &byte in bytes {
            let ends_crlf = byte == b'\n' && self.after_cr;
            self.after_cr = byte == b'\r';
            match byte {
                _ if ends_crlf => continue,
                b'\r' | b'\n' => self.end_line(),
                _ => {
                    self.is_comment = if self.line == 0 {
                        byte == b':'
                    } else {
                        self.is_comment
                    };
                    self.line += 1;
                }
            }
            if self.fields.saturating_add(self.line) > self.limit {
                return Err(Error::event_too_large(self.limit));
            }
        }
        Ok(())
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        if line == 0 {
            self.fields = 0;
        } else if !self.is_comment {
            // With the line end, which is kept between two lines of data.
            self.fields = self.fields.saturating_add(line + 1);
        }
    }
}
