//! Signatures over a bundle's manifest: keys as cosign keeps them, and Sigstore bundles that cosign takes.
//!
//! Threat model: the signature entry comes from whoever made the file. It counts only if it is, byte for byte, the
//! canonical encoding of what it says; so there is no second form of a signature, and no bit in it that isn't checked.

mod entry;
mod key;
pub mod password;

pub use entry::{ENTRY_SIZE, sign, signer_hint, unsigned, verify};
pub use key::{PublicKey, SigningKey, write_key_pair};
