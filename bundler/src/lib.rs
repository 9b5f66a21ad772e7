//! airlock, the air-gap bundle builder and offline installer, as a library.
//!
//! Data flows one way, through the stages:
//!
//! ```text
//! bundle.toml ─lock─▶ images.lock ─plan─▶ layout ─build─▶ one tar │ ─verify─▶ push │ serve │ install │ mirrors │ policy │ audit
//! ```
//!
//! States are types: [`spec::Spec`], [`lock::Lock`], [`plan::Plan`], [`bundle::Bundle`], and
//! [`verify::VerifiedBundle`], which is all that is pushed, served or installed.

// Stages, in the order of the journey.
pub mod spec;
pub mod discover;
pub mod lock;
pub mod plan;
pub mod statement;
pub mod build;
pub mod sign;
pub mod trust;
pub mod verify;
pub mod push;
pub mod serve;
pub mod rewrite;
pub mod install;
pub mod mirrors;
pub mod policy;
pub mod receipt;
pub mod audit;

// What stages share.
pub mod archive;
pub mod attached;
mod buffers;
pub mod bundle;
pub mod cache;
pub mod chart;
mod chart_repository;
mod child;
pub mod cluster;
pub mod digest;
pub mod error;
pub mod fetch;
pub mod file;
pub mod format;
pub mod helm;
pub mod image;
pub mod interrupt;
pub mod name;
pub mod origin;
pub mod postrender;
mod private;
pub mod progress;
pub mod reference;
pub mod registry;
pub mod resolve;
pub mod source;
pub mod yaml;

pub use error::{Error, Kind, Result};
