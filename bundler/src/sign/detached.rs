//! Signatures made elsewhere, in the forms that tools write: DER (openssl), that in Base64 (`cosign sign-blob` up to version
//! 2), and a sigstore bundle (`cosign sign-blob --bundle`, the default of version 3).
//!
//! Of a bundle only the signature counts, and only for a key that is named; its proofs of logs and times are not read.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::entry::{DIGEST_ALGORITHM, digest};
use crate::error::{Error, Result};

/// The beginning of the media types of sigstore bundles, of whatever version.
const MEDIA_TYPE: &str = "application/vnd.dev.sigstore.bundle";

/// A sigstore bundle, or the file that `cosign sign-blob --bundle` wrote before there were any.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bundle {
    media_type: Option<String>,
    verification_material: Option<Material>,
    message_signature: Option<MessageSignature>,
    dsse_envelope: Option<IgnoredAny>,
    base64_signature: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Material {
    certificate: Option<IgnoredAny>,
    x509_certificate_chain: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MessageSignature {
    message_digest: Option<MessageDigest>,
    signature: String,
}

#[derive(Deserialize)]
struct MessageDigest {
    algorithm: String,
    digest: String,
}

/// The bytes of a signature over `message`, DER as a rule. Whether they are a signature is not checked.
///
/// # Errors
/// When a bundle is for something else, or holds no signature of a key.
pub(super) fn read(file: &[u8], message: &[u8]) -> Result<Vec<u8>> {
    let text = file.trim_ascii();
    if text.starts_with(b"{") {
        return of_bundle(text, message);
    }
    Ok(BASE64.decode(text).unwrap_or_else(|_| file.into()))
}

fn of_bundle(text: &[u8], message: &[u8]) -> Result<Vec<u8>> {
    let refuse = |why: &str| Error::trust("reading a sigstore bundle", why);
    let bundle: Bundle = serde_json::from_slice(text).map_err(|e| refuse(&e.to_string()))?;
    let is_known = bundle.media_type.as_ref().is_some_and(|kind| kind.starts_with(MEDIA_TYPE));
    let signature = match (bundle.message_signature, bundle.base64_signature) {
        _ if bundle.dsse_envelope.is_some() => {
            return Err(refuse("it signs an attestation, not the file itself")
                .hint("sign airlock.json with `cosign sign-blob`, not `attest-blob`"));
        }
        (Some(signed), None) if is_known => {
            let material = bundle.verification_material.as_ref();
            if material.is_some_and(|has| has.certificate.is_some() || has.x509_certificate_chain.is_some()) {
                return Err(refuse("it is signed with a certificate (keyless), not with a key").hint(
                    "sites check signatures offline, by a key: sign with `cosign sign-blob --key KEY --bundle FILE`",
                ));
            }
            if let Some(of) = &signed.message_digest
                && (of.algorithm != DIGEST_ALGORITHM || of.digest != digest(message))
            {
                return Err(refuse("it is for another file, by the digest in it").hint(
                    "what is to be signed are the bytes of airlock.json: tar -xOf BUNDLE airlock.json",
                ));
            }
            signed.signature
        }
        (None, Some(signature)) => signature,
        _ => return Err(refuse("it has no message signature: it is no sigstore bundle of a signed file")),
    };
    BASE64.decode(signature.trim()).map_err(|_| refuse("its signature is not Base64"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sign::{SigningKey, entry, sign, signature};

    const MESSAGE: &[u8] = b"message";

    /// A bundle as cosign 3 writes it, and its parts.
    fn bundle(signature: &str) -> serde_json::Value {
        serde_json::json!({
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": {"publicKey": {"hint": "x"}, "tlogEntries": [{"logIndex": "1",
                "inclusionProof": {"hashes": vec!["x"; 100]}}], "timestampVerificationData": {}},
            "messageSignature": {"messageDigest": {"algorithm": "SHA2_256", "digest": digest(MESSAGE)},
                "signature": signature},
        })
    }

    #[test]
    fn a_sigstore_bundle_is_a_signature() {
        let key = SigningKey::generate().expect("a key");
        let ours = sign(&key, MESSAGE).expect("an entry");
        let text = signature(&ours).expect("a signature");
        let taken = |file: &[u8]| entry(&key.public_key(), MESSAGE, file);
        let mut without_digest = bundle(&text);
        without_digest["messageSignature"]["messageDigest"] = serde_json::Value::Null;
        let old = serde_json::json!({"base64Signature": text, "cert": "", "rekorBundle": null});
        for good in [bundle(&text), without_digest, old] {
            let file = format!("{}\n", serde_json::to_string_pretty(&good).expect("JSON"));
            assert_eq!(taken(file.as_bytes()).expect("taken"), ours);
        }
        assert_eq!(taken(&ours).expect("an entry of ours"), ours);
        assert_eq!(taken(text.as_bytes()).expect("Base64"), ours);
        assert_eq!(taken(&BASE64.decode(&text).expect("DER")).expect("DER"), ours);
    }

    #[test]
    fn other_bundles_are_refused_with_the_reason() {
        let key = SigningKey::generate().expect("a key");
        let text = signature(&sign(&key, MESSAGE).expect("an entry")).expect("a signature");
        let with = |change: fn(&mut serde_json::Value)| {
            let mut value = bundle(&text);
            change(&mut value);
            value.to_string()
        };
        for (file, says) in [
            (
                with(|b| b["verificationMaterial"] = serde_json::json!({"certificate": {"rawBytes": ""}})),
                "keyless",
            ),
            (
                with(|b| b["verificationMaterial"] = serde_json::json!({"x509CertificateChain": {}})),
                "keyless",
            ),
            (
                with(|b| b["messageSignature"]["messageDigest"]["digest"] = digest(b"other").into()),
                "another file",
            ),
            (
                with(|b| b["messageSignature"]["messageDigest"]["algorithm"] = "SHA2_512".into()),
                "another file",
            ),
            (with(|b| b["dsseEnvelope"] = serde_json::json!({})), "an attestation"),
            (with(|b| b["messageSignature"]["signature"] = "%".into()), "not Base64"),
            (with(|b| b["messageSignature"]["signature"] = "AAAA".into()), "no ECDSA signature"),
            (with(|b| b["mediaType"] = "application/json".into()), "no message signature"),
            ("{}".into(), "no message signature"),
            ("{".into(), "EOF"),
        ] {
            let error = entry(&key.public_key(), MESSAGE, file.as_bytes()).expect_err(says).to_string();
            assert!(error.contains(says), "{says}: {error}");
        }
        let other = SigningKey::generate().expect("a key");
        let error = entry(&other.public_key(), MESSAGE, bundle(&text).to_string().as_bytes());
        assert!(error.expect_err("another key").to_string().contains("does not hold"));
    }
}
