//! Reading a body whole, or as much of it as an error shows.

use bytes::{Buf, BufMut, Bytes};
use http_body::Body;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use rmcp::transport::streamable_http_client::StreamableHttpError;

use crate::{Error, error::BoxError};

/// The whole of a body that is a message.
pub(crate) async fn whole<R>(body: R, limit: usize) -> Result<Bytes, StreamableHttpError<Error>>
where
    R: Body<Error: Into<BoxError>>,
{
    let too_large = StreamableHttpError::ResponseBodyTooLarge { max_size: limit };
    // What is said to be too large need not be read.
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large);
    }
    match Limited::new(body, limit).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large),
        Err(error) => Err(Error::body(error).into()),
    }
}

/// The beginning of a body that is text to be shown. The rest is not waited for.
pub(crate) async fn beginning<R>(body: R, limit: usize) -> Result<Bytes, Error>
where
    R: Body<Error: Into<BoxError>>,
{
    let mut body = std::pin::pin!(body);
    let mut beginning = Vec::new();
    while beginning.len() < limit {
        let Some(frame) = body.frame().await else {
            break;
        };
        if let Ok(data) = frame.map_err(Error::body)?.into_data() {
            let room = limit - beginning.len();
            beginning.put(data.take(room));
        }
    }
    Ok(beginning.into())
}
