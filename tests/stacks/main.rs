//! Rows of the crate documentation's table "Where to put it in a stack" whose layers take long to
//! build, and services that take a body type of their own. The other rows are in `tests/it/stacks`.

mod body_types;
mod decompression;
mod redirects;
mod support;
