//! The service that the layer wraps: its bound, and how the cold path reaches it.

use std::{
    future::poll_fn,
    sync::{Mutex, PoisonError},
};

use bytes::Buf;
use http::{Request, Response};
use http_body::Body;
use tower::{Service, util::Oneshot};

use crate::body::{RequestBody, ResponseBody};

/// An HTTP client service that [`SessionRecovery`](crate::SessionRecovery) can wrap.
///
/// Sealed, and implemented for every [`Service`] that qualifies: it takes a
/// `Request<RequestBody<B>>`, gives a `Response<R>`, and is `Clone + Send + 'static`, as are its
/// future, its error and both bodies.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an HTTP client service that `SessionRecovery` can wrap",
    label = "has to be `Service<Request<RequestBody<B>>, Response = Response<_>> + Clone + Send + 'static`",
    note = "a service with a body type of its own, `MyBody`, is wrapped with `.map_request(|request: Request<RequestBody<_>>| request.map(MyBody::new))` below the layer",
    note = "a service that cannot be cloned is wrapped with `.buffer(64)` below the layer",
    note = "a policy of retries that clones requests can do it with `RequestBody::try_clone`, whatever body they have",
    note = "see \"When it does not compile\" in the documentation of `mcp_session_recovery`"
)]
pub trait HttpService<B: Body>:
    Service<
        Request<RequestBody<B>>,
        Response = Response<<Self as HttpService<B>>::ResBody>,
        Error: Send + 'static,
        Future: Send + 'static,
    >
    + Clone
    + Send
    + 'static
    + sealed::Sealed<B>
{
    /// The body of the responses.
    type ResBody: Body<Data: Buf + Send, Error: Send> + Send + 'static;
}

// So that what is said above is said, and not that some `Service` is not implemented.
#[diagnostic::do_not_recommend]
impl<S, B, R> HttpService<B> for S
where
    S: Service<
            Request<RequestBody<B>>,
            Response = Response<R>,
            Error: Send + 'static,
            Future: Send + 'static,
        > + Clone
        + Send
        + 'static,
    B: Body,
    R: Body<Data: Send, Error: Send> + Send + 'static,
{
    type ResBody = R;
}

mod sealed {
    /// Keeps [`HttpService`](super::HttpService) to its one implementation.
    pub trait Sealed<B> {}

    impl<S, B> Sealed<B> for S {}
}

/// What a caller gets of the layer.
pub(crate) type LayerResponse<S, B> = Response<ResponseBody<<S as HttpService<B>>::ResBody>>;
pub(crate) type LayerResult<S, B> =
    Result<LayerResponse<S, B>, <S as Service<Request<RequestBody<B>>>>::Error>;

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

    /// Makes a clone of the service ready and sends the request through it (rule E4).
    pub(crate) fn send<B>(
        &self,
        request: Request<RequestBody<B>>,
    ) -> Oneshot<S, Request<RequestBody<B>>>
    where
        S: HttpService<B>,
        B: Body,
    {
        Oneshot::new(self.get(), request)
    }

    /// The same, if the request `may_go` by the time the clone is ready: that may take long.
    pub(crate) async fn send_if<B>(
        &self,
        request: Request<RequestBody<B>>,
        may_go: impl FnOnce() -> bool,
    ) -> Option<Result<Response<S::ResBody>, S::Error>>
    where
        S: HttpService<B>,
        B: Body,
    {
        let mut service = self.get();
        if let Err(error) = poll_fn(|cx| service.poll_ready(cx)).await {
            return Some(Err(error));
        }
        if !may_go() {
            return None;
        }
        let sending = service.call(request);
        // What its readiness held is the request's now.
        drop(service);
        Some(sending.await)
    }
}
