//! The proxy, as a program.

#[path = "../support/program.rs"]
mod program;

mod authorization;
mod away;
mod command;
mod forwarding;
mod limits;
mod refusing;
mod scene;
mod stopping;
