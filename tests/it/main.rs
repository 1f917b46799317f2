//! The rules, a module for each section of them, and what goes across sections.

/// A. What is touched.
mod touched {
    mod given_away_meanwhile;
    mod half_open;
    mod hosts;
    mod ids;
    mod left_alone;
    mod principals;
}

/// B. Recording.
mod recording {
    mod initialize;
    mod result;
}

/// C. Translating.
mod translating {
    mod headers;
}

/// D. Detecting.
mod detecting {
    mod asking;
    mod deployed;
    mod examining;
    mod strangers;
    mod triggering;
    mod verdicts;
}

/// E. Recovering.
mod recovering {
    mod affinity;
    mod epochs;
    mod handshake;
    mod handshake_answers;
    mod new_session;
    mod one_recovery;
    mod stampede;
}

/// F. Replaying.
mod replaying {
    mod messages;
    mod request_bodies;
}

/// G. Streams.
mod streams {
    mod differential;
    mod listening;
    mod lost_answers;
    mod many_streams;
    mod orphans;
    mod passing;
    mod properties;
    mod resuming;
}

/// H. State.
mod state {
    mod list_changed;
    mod restoring;
}

/// I. Ending.
mod ending {
    mod eviction;
    mod sessions;
}

/// J. Failing.
mod failing {
    mod answers;
    mod deadlines;
    mod pace;
    mod proof;
}

/// K. Limits.
mod limits {
    mod always_ready;
    mod bounds;
    mod documented;
    mod knobs;
    mod table;
    mod timeouts;
}

/// L. Secrets.
mod secrets {
    mod sensitive;
    mod unseen;
}

/// M. Reporting.
mod reporting {
    mod panics;
    mod reports;
}

/// N. Sessions that outlive the process.
#[cfg(feature = "store")]
mod stored {
    mod agreeing;
    mod apart;
    mod ending;
    mod failing;
    mod faulty;
    mod flushing;
    mod found_again;
    mod given_away;
    mod interleaving;
    mod late;
    mod left_behind;
    mod making_room;
    mod outliving;
    mod own_epochs;
    mod seeds;
    mod sharing;
    mod sick;
    mod telling;
    mod waiting;
}

mod contract;
mod hyper;
mod plain;
mod reentrancy;
mod rmcp_server;
mod rules;

/// E2 to E4: other layers above and below.
mod stacks {
    mod deadlines;
    mod readiness;
    mod sending;
    mod settings;
    mod support;
    mod watching;
}
