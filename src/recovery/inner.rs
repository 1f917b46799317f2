//! The inner service, as the cold path needs it.

use std::{
    future::Future,
    sync::{Mutex, PoisonError},
};

use bytes::Buf;
use http::{Request, Response};
use http_body::Body;
use tower::{Service, util::Oneshot};

use crate::body::{RequestBody, ResponseBody};

/// A service that the layer can wrap. Implemented for all that qualify.
pub(crate) trait Inner<B: Body>: Clone + Send + 'static {
    type ResBody: Body<Data: Buf + Send, Error: Send> + Send + 'static;
    type Error: Send + 'static;
    type Sending: Future<Output = Result<Response<Self::ResBody>, Self::Error>> + Send + 'static;

    /// Makes a clone of the service ready and sends the request through it (rule E4).
    fn send(&self, request: Request<RequestBody<B>>) -> Self::Sending;
}

impl<S, B, R> Inner<B> for S
where
    S: Service<Request<RequestBody<B>>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    B: Body + Send + 'static,
    B::Error: Send,
    R: Body + Send + 'static,
    R::Data: Send,
    R::Error: Send,
{
    type ResBody = R;
    type Error = S::Error;
    type Sending = Oneshot<S, Request<RequestBody<B>>>;

    fn send(&self, request: Request<RequestBody<B>>) -> Self::Sending {
        Oneshot::new(self.clone(), request)
    }
}

/// The response that a caller gets.
pub(crate) type Delivered<S, B> = Response<ResponseBody<<S as Inner<B>>::ResBody>>;
pub(crate) type Answered<S, B> = Result<Delivered<S, B>, <S as Inner<B>>::Error>;

/// A service kept to be cloned, on the cold path alone: a clone for each request would cost more
/// than all else. Many services are not `Sync`, hence the lock.
pub(crate) struct SharedService<S>(Mutex<S>);

impl<S: Clone> SharedService<S> {
    pub(crate) fn new(service: S) -> Self {
        Self(Mutex::new(service))
    }

    pub(crate) fn get(&self) -> S {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
