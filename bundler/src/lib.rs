//! airlock, the air-gap bundle builder and offline installer, as a library.

pub mod archive;
pub mod digest;
pub mod error;
pub mod reference;

pub use error::{Error, Kind, Result};
