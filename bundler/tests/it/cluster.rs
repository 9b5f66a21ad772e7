//! Tests on a Kubernetes of real parts, which `cargo xtask test --cluster` brings up.

mod audit;
mod demo;
mod docs;
mod install;
mod kubernetes;
mod node;
mod site;
