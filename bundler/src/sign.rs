//! Signatures over a bundle's manifest: keys as cosign keeps them, and Sigstore bundles that cosign takes.
//!
//! Threat model: the signature entry comes from whoever made the file. It counts only if it is, byte for byte, the
//! canonical encoding of what it says; so there is no second form of a signature, and no bit in it that isn't checked.

mod detached;
mod entry;
pub mod image;
mod key;
pub mod password;
mod pem;
mod signer;

/// What is behind the name of a file in the name of the one with its signatures.
pub(crate) const BESIDE: &str = ".sigstore.json";

pub use entry::{
    ENTRY_SIZE, entry, is_for, sign, signature, signer, signer_hint, unsigned, verify, verify_all,
};
pub use key::{PublicKey, SigningKey, write_key_pair};
pub use signer::Signer;
