//! The signature entry: a Sigstore bundle v0.3 with a message signature (sigstore/protobuf-specs,
//! `sigstore_bundle.proto`), padded with spaces to a fixed size, so that signing moves nothing in the tar.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use p256::ecdsa::Signature;
use p256::ecdsa::signature::{Signer as _, Verifier as _};
use serde::{Deserialize, Serialize};

use super::{PublicKey, SigningKey};
use crate::digest::Digest;
use crate::error::{Error, Result};

/// Size of the entry in bytes. A signature takes about 400; the rest is room for what other signers put in.
pub const ENTRY_SIZE: u64 = 4096;

const MEDIA_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const DIGEST_ALGORITHM: &str = "SHA2_256";

/// The fields that a key-based signature has, in the order they are written.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SigstoreBundle {
    media_type: String,
    verification_material: VerificationMaterial,
    message_signature: MessageSignature,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct VerificationMaterial {
    public_key: KeyHint,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyHint {
    hint: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct MessageSignature {
    message_digest: MessageDigest,
    signature: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MessageDigest {
    algorithm: String,
    digest: String,
}

/// The entry of a bundle whose manifest is `message`. The same key and message give the same bytes (RFC 6979).
///
/// # Errors
/// None that can be caused by input.
pub fn sign(key: &SigningKey, message: &[u8]) -> Result<Vec<u8>> {
    let signature: Signature = key.0.sign(message);
    // Of the two forms of every ECDSA signature only the one with the low S is written, and taken.
    let signature = signature.normalize_s();
    encode(&SigstoreBundle {
        media_type: MEDIA_TYPE.into(),
        verification_material: VerificationMaterial {
            public_key: KeyHint { hint: key.public_key().key_id() },
        },
        message_signature: MessageSignature {
            message_digest: MessageDigest { algorithm: DIGEST_ALGORITHM.into(), digest: digest(message) },
            signature: BASE64.encode(signature.to_der().as_bytes()),
        },
    })
}

/// The entry of a bundle that nobody signed.
#[must_use]
pub fn unsigned() -> Vec<u8> {
    vec![b' '; ENTRY_SIZE as usize]
}

/// Id of the key that the entry says it is signed with. Not checked: for people, and for messages.
#[must_use]
pub fn signer_hint(entry: &[u8]) -> Option<String> {
    let bundle: SigstoreBundle = serde_json::from_slice(entry).ok()?;
    Some(shortened(&bundle.verification_material.public_key.hint))
}

/// Checks that one of `keys` signed `message`; which one.
///
/// # Errors
/// When nobody did, another key did, or the entry is not exactly what [`sign`] would have written.
pub fn verify(entry: &[u8], message: &[u8], keys: &[PublicKey]) -> Result<String> {
    let refuse = |why: String| Error::trust("checking the signature", why);
    if entry == unsigned() {
        return Err(refuse("the bundle is not signed".into())
            .hint("build it with --key, or take it as it is with --insecure-skip-verify"));
    }
    let damaged = |why: String| refuse(format!("the signature entry is damaged: {why}"));
    let bundle: SigstoreBundle = serde_json::from_slice(entry).map_err(|e| damaged(e.to_string()))?;
    if encode(&bundle)? != entry {
        return Err(damaged("it is not in its canonical form".into()));
    }
    let signed = &bundle.message_signature;
    if bundle.media_type != MEDIA_TYPE || signed.message_digest.algorithm != DIGEST_ALGORITHM {
        return Err(damaged("it is not a Sigstore bundle v0.3 with SHA2_256".into()));
    }
    let der = BASE64.decode(&signed.signature).map_err(|e| damaged(e.to_string()))?;
    let signature = Signature::from_der(&der).map_err(|_| damaged("it holds no ECDSA signature".into()))?;
    if signature.normalize_s() != signature || BASE64.encode(&der) != signed.signature {
        return Err(damaged("its signature is not in canonical form".into()));
    }
    let claimed = shortened(&bundle.verification_material.public_key.hint);
    let Some(key) = keys.iter().find(|key| key.key_id() == claimed) else {
        let trusted: Vec<_> = keys.iter().map(PublicKey::key_id).collect();
        return Err(refuse(format!("it is signed with key {claimed}, which is not trusted")).hint(format!(
            "trusted: {}; get the builder's public key on another way than the bundle",
            trusted.join(", ")
        )));
    };
    if signed.message_digest.digest != digest(message) || key.0.verify(message, &signature).is_err() {
        return Err(refuse("it does not hold: what it is for was changed after it was signed".into())
            .hint("don't use this file: get it again, and ask who had it in between"));
    }
    Ok(claimed)
}

fn encode(bundle: &SigstoreBundle) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(bundle).map_err(|e| Error::input("writing the signature", e))?;
    if bytes.len() as u64 > ENTRY_SIZE {
        return Err(Error::trust("reading the signature", "it is larger than its entry"));
    }
    bytes.resize(ENTRY_SIZE as usize, b' ');
    Ok(bytes)
}

fn digest(message: &[u8]) -> String {
    BASE64.encode(hex::decode(Digest::of(message).hex()).unwrap_or_default())
}

/// A foreign text, of a length fit for a message.
fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> SigningKey {
        SigningKey::generate().expect("a key")
    }

    #[test]
    fn signs_the_same_twice_and_verifies() {
        let key = key();
        let entry = sign(&key, b"message").expect("an entry");
        assert_eq!(entry.len() as u64, ENTRY_SIZE);
        assert_eq!(entry, sign(&key, b"message").expect("an entry"));
        let id = verify(&entry, b"message", &[key.public_key()]).expect("a good signature");
        assert_eq!(Some(id), signer_hint(&entry));
        assert!(verify(&entry, b"massage", &[key.public_key()]).is_err());
    }

    #[test]
    fn every_flipped_byte_is_refused() {
        let key = key();
        let keys = [key.public_key()];
        let mut entry = sign(&key, b"message").expect("an entry");
        for at in 0..entry.len() {
            for bit in [1, 1 << (at % 8)] {
                entry[at] ^= bit;
                assert!(verify(&entry, b"message", &keys).is_err(), "byte {at}");
                entry[at] ^= bit;
            }
        }
        verify(&entry, b"message", &keys).expect("the entry as it was");
    }

    #[test]
    fn the_other_form_of_a_signature_is_refused() {
        let key = key();
        let entry = sign(&key, b"message").expect("an entry");
        let mut bundle: SigstoreBundle = serde_json::from_slice(&entry).expect("a bundle");
        let der = BASE64.decode(&bundle.message_signature.signature).expect("base64");
        let low = Signature::from_der(&der).expect("a signature");
        let high = Signature::from_scalars(low.r().to_bytes(), (-*low.s()).to_bytes()).expect("a signature");
        key.public_key().0.verify(b"message", &high).expect("it is mathematically good");
        bundle.message_signature.signature = BASE64.encode(high.to_der().as_bytes());
        let error =
            verify(&encode(&bundle).expect("an entry"), b"message", &[key.public_key()]).expect_err("high S");
        assert!(error.to_string().contains("canonical"), "{error}");
    }

    #[test]
    fn unsigned_and_foreign_are_told_apart() {
        let (ours, theirs) = (key(), key());
        let refused = |entry: &[u8]| verify(entry, b"message", &[ours.public_key()]).expect_err("refused");
        assert!(refused(&unsigned()).to_string().contains("not signed"));
        let foreign = refused(&sign(&theirs, b"message").expect("an entry"));
        assert!(foreign.to_string().contains(&theirs.public_key().key_id()), "{foreign}");
        assert!(foreign.hint_text().is_some_and(|hint| hint.contains(&ours.public_key().key_id())));
        // Signed by theirs, with our name on it.
        let text = String::from_utf8(sign(&theirs, b"message").expect("an entry")).expect("JSON");
        let forged = text.replace(&theirs.public_key().key_id(), &ours.public_key().key_id());
        assert!(refused(forged.as_bytes()).to_string().contains("does not hold"));
    }
}
