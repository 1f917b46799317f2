//! What goes wrong with a server.

use tokio::time::Instant;

use crate::random::Random;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// At once: one session, or all of them. What is under way ends somehow.
    Expire(Ending),
    Restart(Ending),
    /// One of the replicas behind the balancer.
    KillReplica(Ending),
    // For a while:
    Stateless,
    Down(Down),
    Refuse(Refuse),
    Late,
    Hang,
    Cut,
    Lies,
    /// Forgets each session as soon as it is there.
    Amnesia,
    /// Pings in handshakes.
    Pings,
    /// What restores state is refused.
    Forgetful,
    /// A live session's GET is answered 404.
    NoListening,
    /// The service below the layer is not ready at once.
    Busy,
}

/// What becomes of the streams of a session that expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Break,
    Close,
    /// They go on as if nothing had happened.
    Linger,
}

impl Ending {
    pub fn any(random: &mut Random) -> Self {
        random.pick(&[Self::Break, Self::Close, Self::Linger])
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Down {
    Transport,
    Status(u16),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refuse {
    Status(u16),
    Rpc,
    Garbage,
    WrongId,
    /// `initialize` passes, `notifications/initialized` does not.
    Initialized(u16),
    /// The answer never ends and never holds the result.
    Endless,
    Huge,
}

impl Fault {
    pub fn any(random: &mut Random) -> Self {
        let ending = Ending::any(random);
        match random.below(23) {
            0..4 => Self::Expire(ending),
            4..7 => Self::Restart(ending),
            7 | 8 => Self::KillReplica(ending),
            9 => Self::Stateless,
            10 => Self::Down(Down::Transport),
            11 => Self::Down(Down::Status(random.pick(&[404, 429, 500, 502, 503]))),
            12 => Self::Refuse(Refuse::Status(
                random.pick(&[401, 403, 400, 404, 429, 500, 503]),
            )),
            13 => Self::Refuse(random.pick(&[
                Refuse::Rpc,
                Refuse::Garbage,
                Refuse::WrongId,
                Refuse::Initialized(404),
                Refuse::Initialized(401),
                Refuse::Initialized(500),
                Refuse::Endless,
                Refuse::Huge,
            ])),
            14 => Self::Late,
            15 => Self::Hang,
            16 => Self::Cut,
            17 => Self::Lies,
            18 => Self::Amnesia,
            19 => Self::Pings,
            20 => Self::Forgetful,
            21 => Self::NoListening,
            _ => Self::Busy,
        }
    }

    pub fn is_instant(self) -> bool {
        matches!(
            self,
            Self::Expire(_) | Self::Restart(_) | Self::KillReplica(_)
        )
    }
}

/// The faults of a server that last for a while.
#[derive(Default)]
pub struct Faults(Vec<(Fault, Instant)>);

impl Faults {
    pub fn begin(&mut self, fault: Fault, until: Instant) {
        let now = Instant::now();
        self.0.retain(|(_, until)| *until > now);
        self.0.push((fault, until));
    }

    pub fn has(&self, fault: Fault) -> bool {
        self.find(|it| (it == fault).then_some(())).is_some()
    }

    pub fn find<T>(&self, find: impl Fn(Fault) -> Option<T>) -> Option<T> {
        let now = Instant::now();
        let active = self.0.iter().filter(|(_, until)| *until > now);
        active.filter_map(|(fault, _)| find(*fault)).next()
    }
}
