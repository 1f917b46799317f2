//! A log that nobody can flood: who is refused a thousand times is told of a thousand times, but
//! the log says it once a minute.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

const PAUSE: Duration = Duration::from_secs(60);

/// There are fewer reasons than this, unless an upstream makes them up.
const MAX_REASONS: usize = 64;

/// What was said when, by its text.
#[derive(Debug, Default)]
pub struct Quiet(Mutex<HashMap<String, Said>>);

#[derive(Debug)]
struct Said {
    at: Instant,
    unsaid: u64,
}

impl Quiet {
    /// Says `text`, with how often it was not said since the last time, unless that was just now.
    pub fn say(&self, text: &str, say: impl FnOnce(&str)) {
        let now = Instant::now();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MAX_REASONS {
            all.retain(|_, said| now < said.at + PAUSE);
            if all.len() >= MAX_REASONS {
                return;
            }
        }
        let last = all.insert(text.to_owned(), Said { at: now, unsaid: 0 });
        match last {
            Some(last) if now < last.at + PAUSE => {
                let unsaid = last.unsaid + 1;
                all.insert(text.to_owned(), Said { unsaid, ..last });
            }
            Some(last) if last.unsaid > 0 => {
                drop(all);
                say(&format!("{text} (and {} times before)", last.unsaid));
            }
            _ => {
                drop(all);
                say(text);
            }
        }
    }
}
