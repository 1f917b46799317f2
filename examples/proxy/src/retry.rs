//! Waiting for an upstream that is away: a request that was never sent may be sent again.

use std::time::Duration;

use http::Request;
use hyper_util::client::legacy;
use tokio::time::{Instant, Sleep, sleep};
use tower::retry::Policy;

use super::reason::may_pass;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Sends a request again for which there was no connection, until it has waited too long. A
/// request whose connection broke later may have been executed, and is not for this to repeat.
///
/// It belongs below the layer, so that the layer's own requests wait, too, and none of them is
/// sent in a session that has been replaced meanwhile.
#[derive(Debug, Clone)]
pub struct WaitForUpstream {
    patience: Duration,
    until: Option<Instant>,
    pause: Duration,
}

impl WaitForUpstream {
    pub fn new(patience: Duration) -> Self {
        Self {
            patience,
            until: None,
            pause: FIRST_PAUSE,
        }
    }
}

impl<B: Clone, R> Policy<Request<B>, R, legacy::Error> for WaitForUpstream {
    type Future = Sleep;

    fn retry(
        &mut self,
        _: &mut Request<B>,
        result: &mut Result<R, legacy::Error>,
    ) -> Option<Sleep> {
        let Err(error) = result else {
            return None;
        };
        let now = Instant::now();
        let until = *self.until.get_or_insert(now + self.patience);
        if !may_pass(error) || now + self.pause > until {
            return None;
        }
        let pause = self.pause;
        self.pause = LONGEST_PAUSE.min(pause * 2);
        Some(sleep(pause))
    }

    fn clone_request(&mut self, request: &Request<B>) -> Option<Request<B>> {
        // No copy: a body shares what it has read.
        Some(request.clone())
    }
}
