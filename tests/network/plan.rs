//! What will happen to the hosts and the links, and when. It follows from a seed.

use std::time::Duration;

use crate::random::Random;

/// How long a server and its network have to be well until every call succeeds: what hangs has to
/// time out, and the pause after that to pass.
const CONVALESCENCE: u64 = 20_000;
/// How long every call succeeds then, and what it may take.
const CALM: u64 = 7_000;
pub const CALM_CALL: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub callers: usize,
    /// The server's ids are 1, 2, 3, and again so after a crash.
    pub counts: bool,
    /// The layer is told whose a request is.
    pub has_principal: bool,
    /// How many of a hundred answers are event streams.
    pub streams: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Crash,
    Bounce,
    Partition,
    PartitionOneWay(bool),
    Repair,
    Hold,
    Release,
    /// The longest that a segment takes, in milliseconds.
    Latency(u64),
    /// All connections are reset.
    Reset,
    /// Whether connections are cut at any byte.
    Cuts(bool),
    Refuse(Option<Refused>),
    /// Whether the server takes its time.
    Lags(bool),
    /// All sessions are forgotten; whether their streams end.
    Forget(bool),
    ForgetOne(u64),
    /// All is well, and nobody calls: who has a session?
    Count,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    Initialize,
    Initialized,
    Everything,
}

/// When every call succeeds.
#[derive(Clone, Copy, Debug)]
pub struct Calm {
    from: u64,
    to: u64,
    /// A crash among them; calls in it may fail.
    crash: Option<(u64, u64)>,
}

pub struct Plan {
    pub seed: u64,
    pub settings: Settings,
    /// In the order of time, in milliseconds.
    pub ops: Vec<(u64, Op)>,
    pub calms: Vec<Calm>,
    storms: Vec<(u64, u64)>,
    pub end: u64,
}

impl Plan {
    pub fn new(seed: u64) -> Self {
        let mut random = Random::of(seed, 1);
        let counts = random.chance(50);
        let settings = Settings {
            callers: 4 + random.index(5),
            counts,
            // Who is given an id that another has is not told from it otherwise (rule B4).
            has_principal: counts || random.chance(50),
            streams: random.pick(&[0, 30, 60, 100]),
        };
        let mut plan = Self {
            seed,
            settings,
            ops: Vec::new(),
            calms: Vec::new(),
            storms: Vec::new(),
            end: 0,
        };
        let mut at = 3_000;
        for _ in 0..2 {
            let storm = (at, at + 6_000 + random.below(8_000));
            plan.storms.push(storm);
            let network = plan.network(storm, &mut random);
            let server = plan.server(storm, &mut random);
            at = plan.calm(network.max(server) + CONVALESCENCE, &mut random);
        }
        plan.end = at;
        plan.ops.sort_by_key(|(at, _)| *at);
        plan
    }

    /// One fault of the network or of a host after the other. Returns when the last is over.
    fn network(&mut self, (mut at, end): (u64, u64), random: &mut Random) -> u64 {
        while at < end {
            let time = 100 + random.below(4_000);
            let (begins, ends) = match random.below(8) {
                0 | 1 => (Op::Crash, Op::Bounce),
                2 => (Op::Partition, Op::Repair),
                3 => (Op::PartitionOneWay(random.chance(50)), Op::Repair),
                4 => (Op::Hold, Op::Release),
                5 => (Op::Latency(200 + random.below(1_500)), Op::Latency(20)),
                6 => (Op::Reset, Op::Reset),
                _ => (Op::Cuts(true), Op::Cuts(false)),
            };
            let is_short = matches!(begins, Op::Crash);
            let over = at + if is_short { time / 4 } else { time };
            self.ops.extend([(at, begins), (over, ends)]);
            at = over + random.below(1_500);
        }
        at
    }

    /// The same for the server's software.
    fn server(&mut self, (mut at, end): (u64, u64), random: &mut Random) -> u64 {
        while at < end {
            let time = 100 + random.below(3_000);
            let refused = [
                Refused::Initialize,
                Refused::Initialized,
                Refused::Everything,
            ];
            let (begins, ends) = match random.below(5) {
                0 => (Op::Lags(true), Op::Lags(false)),
                1 | 2 => (Op::Refuse(Some(random.pick(&refused))), Op::Refuse(None)),
                3 => (Op::Forget(random.chance(50)), Op::ForgetOne(random.next())),
                _ => (Op::ForgetOne(random.next()), Op::ForgetOne(random.next())),
            };
            self.ops.extend([(at, begins), (at + time, ends)]);
            at += time + random.below(1_000);
        }
        at
    }

    /// All is well but that sessions expire, or that the server is restarted. Returns its end.
    fn calm(&mut self, from: u64, random: &mut Random) -> u64 {
        let to = from + CALM;
        let at = from + 500 + random.below(2_000);
        let mut crash = None;
        match random.below(4) {
            0 => {}
            1 => {
                let up = at + 50 + random.below(300);
                self.ops.extend([(at, Op::Crash), (up, Op::Bounce)]);
                crash = Some((at, up + 2_000));
            }
            _ => self.ops.push((at, Op::Forget(false))),
        }
        let calm = Calm { from, to, crash };
        self.calms.push(calm);
        let quiet = to + CALM_CALL.as_millis() as u64 + 1_000;
        self.ops.push((quiet, Op::Count));
        quiet + 100
    }

    pub fn is_storm(&self, at: u64) -> bool {
        self.storms
            .iter()
            .any(|(from, to)| (*from..*to).contains(&at))
    }

    /// Whether nobody is to call, for the sessions are counted soon.
    pub fn is_quiet(&self, at: u64) -> bool {
        let quiet = CALM_CALL.as_millis() as u64 + 1_000;
        self.calms
            .iter()
            .any(|it| (it.to..it.to + quiet).contains(&at))
    }

    pub fn calm_at(&self, at: u64) -> Option<&Calm> {
        self.calms.iter().find(|it| (it.from..it.to).contains(&at))
    }
}

impl Calm {
    /// Whether a call of this time has to succeed.
    pub fn holds(&self, from: u64, to: u64) -> bool {
        self.crash.is_none_or(|(down, up)| to < down || from > up)
    }
}
