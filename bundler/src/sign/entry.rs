//! The signature entry: a Sigstore bundle v0.3 with a message signature (sigstore/protobuf-specs,
//! `sigstore_bundle.proto`), padded with spaces to a fixed size, so that signing moves nothing in the tar.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use p256::ecdsa::Signature;
use p256::ecdsa::signature::{Signer as _, Verifier as _};
use serde::{Deserialize, Serialize};

use super::{PublicKey, SigningKey, detached};
use crate::digest::Digest;
use crate::error::{Error, Result};

/// Size of the entry in bytes. A signature takes about 400; the rest is room for what other signers put in.
pub const ENTRY_SIZE: u64 = 4096;

const MEDIA_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
pub(super) const DIGEST_ALGORITHM: &str = "SHA2_256";

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
    write(&key.public_key(), message, key.0.sign(message))
}

/// The entry with a signature that was made elsewhere with the private half of `key`: ECDSA over SHA-256, in DER, that in
/// Base64, or in a sigstore bundle, as `openssl dgst -sign` and `cosign sign-blob` write it.
///
/// # Errors
/// When it is none, or does not hold for `message`.
pub fn entry(key: &PublicKey, message: &[u8], signature: &[u8]) -> Result<Vec<u8>> {
    let refuse = |why: &str| Error::trust("taking a signature", why);
    let der = detached::read(signature, message)?;
    let signature = Signature::from_der(&der)
        .map_err(|_| refuse("it is no ECDSA signature in DER, nor that in Base64 or in a sigstore bundle"))?;
    key.0.verify(message, &signature).map_err(|_| {
        refuse("it does not hold: it is for something else, or was made with another key").hint(format!(
            "what is to be signed are the bytes of airlock.json; the public key's id is {}",
            key.key_id()
        ))
    })?;
    write(key, message, signature)
}

fn write(key: &PublicKey, message: &[u8], signature: Signature) -> Result<Vec<u8>> {
    // Of the two forms of every ECDSA signature only the one with the low S is written, and taken.
    let signature = signature.normalize_s();
    encode(&SigstoreBundle {
        media_type: MEDIA_TYPE.into(),
        verification_material: VerificationMaterial { public_key: KeyHint { hint: key.key_id() } },
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
    verify_all(&[entry], message, keys, 1).map(|mut signers| signers.swap_remove(0))
}

/// Checks that at least `required` of `keys` signed `message`, each in an entry of its own; which ones, in the order of the
/// entries. Entries of other keys are neither good nor bad; one of these keys that does not hold is bad, whatever the others say.
///
/// # Errors
/// When too few did, or an entry is not exactly what [`sign`] would have written.
pub fn verify_all(
    entries: &[&[u8]],
    message: &[u8],
    keys: &[PublicKey],
    required: usize,
) -> Result<Vec<String>> {
    let refuse = |why: String| Error::trust("checking the signature", why);
    let signed: Vec<_> = entries.iter().filter(|entry| **entry != unsigned()).collect();
    if signed.is_empty() {
        return Err(refuse("it is not signed".into())
            .hint("who makes it signs it: a bundle by `build --key` or `sign`, a policy by `trust sign`"));
    }
    let (mut trusted, mut others) = (Vec::new(), Vec::new());
    for entry in signed {
        let (claimed, signature, digest_in_it) = read(entry)?;
        let Some(key) = keys.iter().find(|key| key.key_id() == claimed) else {
            others.push(claimed);
            continue;
        };
        if digest_in_it != digest(message) || key.0.verify(message, &signature).is_err() {
            return Err(refuse("it does not hold: what it is for was changed after it was signed".into())
                .hint("don't use this file: get it again, and ask who had it in between"));
        }
        if !trusted.contains(&claimed) {
            trusted.push(claimed);
        }
    }
    if trusted.len() >= required.max(1) {
        return Ok(trusted);
    }
    let ids = |keys: &mut dyn Iterator<Item = String>| keys.collect::<Vec<_>>().join(", ");
    let hint = match trusted.len() {
        0 => format!(
            "trusted: {}; get the builder's public key on another way than the bundle",
            ids(&mut keys.iter().map(PublicKey::key_id))
        ),
        has => format!(
            "get a further signature, {} in all, of: {}; its holder adds it with `airlock sign`, or sends it as a file for --signature",
            required.saturating_sub(has),
            ids(&mut keys.iter().map(PublicKey::key_id).filter(|id| !trusted.contains(id)))
        ),
    };
    Err(match (trusted.len(), others.as_slice()) {
        (0, [one]) => refuse(format!("it is signed with key {one}, which is not trusted")).hint(hint),
        (has, _) => {
            let others = if others.is_empty() {
                String::new()
            } else {
                format!("; not trusted: {}", others.join(", "))
            };
            refuse(format!("{has} trusted keys have signed it, and {} must have{others}", required.max(1)))
                .hint(hint)
        }
    })
}

/// Key id, signature and digest in an entry that is exactly what [`sign`] would have written.
fn read(entry: &[u8]) -> Result<(String, Signature, String)> {
    let damaged = |why: String| {
        Error::trust("checking the signature", format!("the signature entry is damaged: {why}"))
    };
    let bundle: SigstoreBundle = serde_json::from_slice(entry).map_err(|e| damaged(e.to_string()))?;
    if encode(&bundle)? != entry {
        return Err(damaged("it is not in its canonical form".into()));
    }
    let signed = bundle.message_signature;
    if bundle.media_type != MEDIA_TYPE || signed.message_digest.algorithm != DIGEST_ALGORITHM {
        return Err(damaged("it is not a Sigstore bundle v0.3 with SHA2_256".into()));
    }
    let der = BASE64.decode(&signed.signature).map_err(|e| damaged(e.to_string()))?;
    let signature = Signature::from_der(&der).map_err(|_| damaged("it holds no ECDSA signature".into()))?;
    if signature.normalize_s() != signature || BASE64.encode(&der) != signed.signature {
        return Err(damaged("its signature is not in canonical form".into()));
    }
    Ok((shortened(&bundle.verification_material.public_key.hint), signature, signed.message_digest.digest))
}

/// Key id of an entry that is in its canonical form.
///
/// # Errors
/// When it is not.
pub fn signer(entry: &[u8]) -> Result<String> {
    read(entry).map(|(id, _, _)| id)
}

/// Whether an entry says that it is for `message`. Not checked.
#[must_use]
pub fn is_for(entry: &[u8], message: &[u8]) -> bool {
    read(entry).is_ok_and(|(_, _, digest_in_it)| digest_in_it == digest(message))
}

/// The signature in an entry that is in its canonical form: DER, in Base64.
///
/// # Errors
/// When it is not.
pub fn signature(entry: &[u8]) -> Result<String> {
    read(entry).map(|(_, signature, _)| BASE64.encode(signature.to_der().as_bytes()))
}

fn encode(bundle: &SigstoreBundle) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(bundle).map_err(|e| Error::input("writing the signature", e))?;
    if bytes.len() as u64 > ENTRY_SIZE {
        return Err(Error::trust("reading the signature", "it is larger than its entry"));
    }
    bytes.resize(ENTRY_SIZE as usize, b' ');
    Ok(bytes)
}

pub(super) fn digest(message: &[u8]) -> String {
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
    fn so_many_must_agree_and_none_of_them_may_fail() {
        let (a, b, other) = (key(), key(), key());
        let of = |key: &SigningKey| sign(key, b"message").expect("an entry");
        let (by_a, by_b, by_other) = (of(&a), of(&b), of(&other));
        let keys = [a.public_key(), b.public_key()];
        let check = |entries: &[&[u8]], required| verify_all(entries, b"message", &keys, required);
        assert_eq!(check(&[&by_a, &by_other], 1).expect("one"), [a.public_key().key_id()]);
        assert_eq!(check(&[&by_a, &by_other, &by_b], 2).expect("two").len(), 2);
        assert_eq!(check(&[&unsigned(), &by_b], 1).expect("one"), [b.public_key().key_id()]);
        let error = check(&[&by_a, &by_other], 2).expect_err("one is not two").to_string();
        assert!(error.contains("1 trusted keys have signed it, and 2 must have"), "{error}");
        assert!(error.contains(&other.public_key().key_id()), "{error}");
        check(&[&by_a, &by_a], 2).expect_err("twice the same is one");
        let wrong = sign(&b, b"massage").expect("an entry");
        check(&[&by_a, &wrong], 1).expect_err("one that does not hold");
    }

    #[test]
    fn signatures_of_others_are_taken_if_they_hold() {
        let key = key();
        let made: Signature = key.0.sign(b"message");
        let der = made.to_der();
        let ours = sign(&key, b"message").expect("an entry");
        let text = format!("{}\n", BASE64.encode(der.as_bytes()));
        for signature in [der.as_bytes(), text.as_bytes()] {
            assert_eq!(entry(&key.public_key(), b"message", signature).expect("an entry"), ours);
        }
        for (message, signature) in
            [(&b"massage"[..], der.as_bytes()), (b"message", b""), (b"message", b"AAAA")]
        {
            entry(&key.public_key(), message, signature).expect_err("refused");
        }
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
