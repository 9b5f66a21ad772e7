//! Tests against real parts: `cargo xtask test` sets them up and runs these.

mod parts;
mod registry;
mod rewrite;
mod source;
