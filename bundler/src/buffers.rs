//! Buffers that are used again: whoever moves gigabytes in chunks must not have each of them zeroed, and its pages found, anew.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// Most buffers that wait to be used again.
const SPARE: usize = 32;

/// Buffers of one length.
#[derive(Clone, Debug)]
pub struct Buffers {
    length: usize,
    spare: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Buffers {
    /// Of `length` bytes each.
    #[must_use]
    pub fn of(length: usize) -> Self {
        Self { length, spare: Arc::default() }
    }

    /// The first `length` bytes of a buffer, filled by `fill`, which finds old content in them. The buffer is used again when the
    /// last handle to them is dropped.
    ///
    /// # Errors
    /// What `fill` says.
    ///
    /// # Panics
    /// When `length` is more than a buffer's.
    pub fn filled<E>(
        &self,
        length: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Bytes, E> {
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let buffer = spare.unwrap_or_else(|| vec![0; self.length]);
        let mut lent = Lent { buffer, length, home: Arc::clone(&self.spare) };
        fill(&mut lent.buffer[..length])?;
        Ok(Bytes::from_owner(lent))
    }
}

/// A buffer that goes back when it is dropped.
struct Lent {
    buffer: Vec<u8>,
    length: usize,
    home: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer[..self.length]
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut spare = self.home.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < SPARE {
            spare.push(std::mem::take(&mut self.buffer));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_when_nobody_has_it_any_more() {
        let buffers = Buffers::of(8);
        let spare = || buffers.spare.lock().expect("the spare ones").len();
        let fill = |byte: u8| {
            move |part: &mut [u8]| -> Result<(), ()> {
                part.fill(byte);
                Ok(())
            }
        };
        let first = buffers.filled(5, fill(1)).expect("filled");
        let handle = first.slice(1..3);
        drop(first);
        let second = buffers.filled(8, fill(2)).expect("filled");
        assert_eq!((&*handle, &*second, spare()), (&[1, 1][..], &[2; 8][..], 0));
        drop((handle, second));
        assert_eq!(spare(), 2);
        assert_eq!(buffers.filled(2, fill(3)).expect("filled"), &[3, 3][..]);
        assert!(buffers.filled(2, |_| Err(())).is_err());
        assert_eq!(spare(), 2);
        let many: Vec<_> = (0..SPARE + 5).map(|_| buffers.filled(1, fill(4)).expect("filled")).collect();
        drop(many);
        assert_eq!(spare(), SPARE);
    }
}
