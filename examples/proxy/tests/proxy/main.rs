//! The proxy, as a program.

#[path = "../support/program.rs"]
mod program;

mod command;
mod forwarding;
