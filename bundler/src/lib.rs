//! airlock, the air-gap bundle builder and offline installer, as a library.

pub mod archive;
pub mod digest;
