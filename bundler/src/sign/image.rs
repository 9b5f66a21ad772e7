//! Signatures on images, as cosign makes them with a key: simple signing under a tag (cosign's `SIGNATURE_SPEC.md`), and
//! sigstore bundles with an in-toto statement as referrers (DSSE, in-toto Attestation Framework v1).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use p256::ecdsa::Signature;
use p256::ecdsa::signature::Verifier as _;
use serde::Deserialize;

use super::PublicKey;
use crate::digest::Digest;

/// Layers with a claim that is signed by an annotation.
pub const SIMPLE_SIGNING: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// Layers that are a sigstore bundle.
pub const SIGSTORE_BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
/// The annotation with a claim's signature.
pub const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
/// What `cosign sign` states; other statements are about an image, and vouch for nothing.
const SIGNED: &str = "https://sigstore.dev/cosign/sign/v1";
const IN_TOTO: &str = "application/vnd.in-toto+json";

/// What a signature under a tag is over.
#[derive(Deserialize)]
struct Claim {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    image: Claimed,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct Claimed {
    #[serde(rename = "docker-manifest-digest")]
    digest: Digest,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bundle {
    dsse_envelope: Envelope,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<EnvelopeSignature>,
}

#[derive(Deserialize)]
struct EnvelopeSignature {
    sig: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Statement {
    subject: Vec<StatementSubject>,
    predicate_type: String,
}

#[derive(Deserialize)]
struct StatementSubject {
    digest: std::collections::BTreeMap<String, String>,
}

/// The one of `keys` that signed a claim about `image`, by the signature (DER in Base64) beside it.
#[must_use]
pub fn of_claim<'a>(
    claim: &[u8],
    signature: &str,
    image: &Digest,
    keys: &'a [PublicKey],
) -> Option<&'a PublicKey> {
    let key = signer(claim, signature, keys)?;
    let Claim { critical } = serde_json::from_slice(claim).ok()?;
    (critical.image.digest == *image && critical.kind == "cosign container image signature").then_some(key)
}

/// The one of `keys` that signed, in a sigstore bundle, the statement that `image` is signed.
#[must_use]
pub fn of_bundle<'a>(bundle: &[u8], image: &Digest, keys: &'a [PublicKey]) -> Option<&'a PublicKey> {
    let Bundle { dsse_envelope: envelope } = serde_json::from_slice(bundle).ok()?;
    let payload = BASE64.decode(&envelope.payload).ok()?;
    // DSSE's "pre-authentication encoding": type and payload with their lengths, so that neither can pass for the other.
    let mut signed = format!("DSSEv1 {} {IN_TOTO} {} ", IN_TOTO.len(), payload.len()).into_bytes();
    signed.extend_from_slice(&payload);
    let mut signatures = envelope.signatures.iter();
    let key = signatures.find_map(|signature| signer(&signed, &signature.sig, keys))?;
    let statement: Statement = serde_json::from_slice(&payload).ok()?;
    let is_about = |subject: &StatementSubject| subject.digest.get("sha256") == Some(&image.hex());
    let is_it = envelope.payload_type == IN_TOTO
        && statement.predicate_type == SIGNED
        && statement.subject.iter().any(is_about);
    is_it.then_some(key)
}

fn signer<'a>(message: &[u8], signature: &str, keys: &'a [PublicKey]) -> Option<&'a PublicKey> {
    let der = BASE64.decode(signature.trim()).ok()?;
    let signature = Signature::from_der(&der).ok()?;
    keys.iter().find(|key| key.0.verify(message, &signature).is_ok())
}

#[cfg(test)]
mod tests {
    use p256::ecdsa::signature::Signer as _;

    use super::*;
    use crate::sign::SigningKey;

    fn signed(key: &SigningKey, message: &[u8]) -> String {
        let signature: Signature = key.0.sign(message);
        BASE64.encode(signature.to_der().as_bytes())
    }

    #[test]
    fn a_claim_counts_for_its_image_and_its_key_only() {
        let (key, other) = (SigningKey::generate().expect("a key"), SigningKey::generate().expect("a key"));
        let keys = [other.public_key(), key.public_key()];
        let (image, stranger) = (Digest::of(b"image"), Digest::of(b"stranger"));
        let claim = |kind: &str| {
            let claim = serde_json::json!({"critical": {"identity": {"docker-reference": "a/b"}, "type": kind,
                "image": {"docker-manifest-digest": image}}, "optional": null});
            claim.to_string().into_bytes()
        };
        let good = claim("cosign container image signature");
        let signature = signed(&key, &good);
        let by = |claim: &[u8], signature: &str, image: &Digest, keys: &[PublicKey]| {
            of_claim(claim, signature, image, keys).map(PublicKey::key_id)
        };
        assert_eq!(by(&good, &signature, &image, &keys), Some(key.public_key().key_id()));
        assert_eq!(by(&good, &signature, &stranger, &keys), None);
        assert_eq!(by(&good, &signature, &image, &keys[..1]), None);
        assert_eq!(by(&good, "", &image, &keys), None);
        let attestation = claim("cosign attestation");
        assert_eq!(by(&attestation, &signed(&key, &attestation), &image, &keys), None);
        assert_eq!(by(b"{}", &signed(&key, b"{}"), &image, &keys), None);
    }

    #[test]
    fn a_statement_counts_if_it_says_that_the_image_is_signed() {
        let key = SigningKey::generate().expect("a key");
        let (image, stranger) = (Digest::of(b"image"), Digest::of(b"stranger"));
        let bundle = |predicate: &str, payload_type: &str, prefix: &str| {
            let statement = serde_json::json!({"_type": "https://in-toto.io/Statement/v1",
                "subject": [{"digest": {"sha256": image.hex()}}], "predicateType": predicate, "predicate": {}});
            let statement = statement.to_string();
            let mut message =
                format!("{prefix} {} {payload_type} {} ", payload_type.len(), statement.len()).into_bytes();
            message.extend_from_slice(statement.as_bytes());
            let bundle = serde_json::json!({"mediaType": SIGSTORE_BUNDLE, "dsseEnvelope": {
                "payload": BASE64.encode(&statement), "payloadType": payload_type,
                "signatures": [{"sig": signed(&key, &message)}]}});
            bundle.to_string().into_bytes()
        };
        let keys = [key.public_key()];
        let counts = |bundle: &[u8], image: &Digest| of_bundle(bundle, image, &keys).is_some();
        assert!(counts(&bundle(SIGNED, IN_TOTO, "DSSEv1"), &image));
        assert!(!counts(&bundle(SIGNED, IN_TOTO, "DSSEv1"), &stranger));
        assert!(!counts(&bundle("https://slsa.dev/provenance/v1", IN_TOTO, "DSSEv1"), &image));
        assert!(!counts(&bundle(SIGNED, "text/plain", "DSSEv1"), &image));
        assert!(!counts(&bundle(SIGNED, IN_TOTO, ""), &image));
        assert!(!counts(b"{}", &image));
        let other = [SigningKey::generate().expect("a key").public_key()];
        assert!(of_bundle(&bundle(SIGNED, IN_TOTO, "DSSEv1"), &image, &other).is_none());
    }
}
