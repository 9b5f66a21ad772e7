//! Tests against real parts: `cargo xtask test` sets them up and runs these.

mod liar;
mod parts;
mod registry;
mod rewrite;
mod source;
