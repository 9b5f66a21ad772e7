//! Tests on a Kubernetes of real parts, which `cargo xtask test --cluster` brings up.

mod audit;
mod install;
mod site;
