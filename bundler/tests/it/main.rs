//! Tests of the binary and of the library with real parts: `cargo xtask test` sets those up and runs all of it.

mod artifacts;
mod bare;
mod charts;
mod cli;
mod cluster;
mod corpus;
mod faults;
mod hostile;
mod interop;
mod liar;
mod limits;
mod nodes;
mod parts;
mod pins;
mod pipeline;
mod registry;
mod releases;
mod resume;
mod rewrite;
mod signatures;
mod source;
mod store;
mod uploads;
mod work;
mod world;
mod yaml;
