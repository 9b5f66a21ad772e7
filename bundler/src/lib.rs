//! airlock, the air-gap bundle builder and offline installer, as a library.

pub mod discover;
pub mod lock;
pub mod rewrite;
pub mod spec;

pub mod archive;
pub mod cache;
pub mod chart;
pub mod digest;
pub mod error;
pub mod format;
pub mod image;
pub mod reference;
pub mod yaml;

pub use error::{Error, Kind, Result};
