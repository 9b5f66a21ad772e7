//! How far a stage is. The library counts bytes; what is drawn, if anything, is the caller's matter.

/// Told by a stage how far it is. Called from several threads.
pub trait Progress: Send + Sync {
    /// A step starts: what it is, and how many bytes it will go through.
    fn begin(&self, step: &str, bytes: u64);
    /// So many more bytes are done.
    fn advance(&self, bytes: u64);
    /// So many bytes need not be done: they were before.
    fn resume(&self, bytes: u64) {
        self.advance(bytes);
    }
    /// The step is done.
    fn end(&self);
}

/// Draws nothing.
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _: &str, _: u64) {}
    fn advance(&self, _: u64) {}
    fn end(&self) {}
}
