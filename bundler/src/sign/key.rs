//! Keys: ECDSA P-256. Private ones in the file format of cosign: PKCS #8, in a NaCl secretbox whose key scrypt makes
//! from a password (RFC 7914), as JSON in PEM; or plain, as openssl writes them.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use crypto_secretbox::aead::Aead as _;
use crypto_secretbox::{KeyInit as _, XSalsa20Poly1305};
use p256::pkcs8::{
    DecodePrivateKey as _, DecodePublicKey as _, EncodePrivateKey as _, EncodePublicKey as _, LineEnding,
};
use serde::{Deserialize, Serialize};

use super::pem;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::file;

/// PEM labels of private keys: what cosign writes now, and what it wrote before.
const LABELS: [&str; 2] = ["ENCRYPTED SIGSTORE PRIVATE KEY", "ENCRYPTED COSIGN PRIVATE KEY"];
/// Labels of private keys that openssl writes.
const SEC1: &str = "EC PRIVATE KEY";
const PKCS8: &str = "PRIVATE KEY";
/// Label of public keys.
const PUBLIC: &str = "PUBLIC KEY";
/// Hint that names the accepted files of a private key.
const PRIVATE_KEY: &str = "give the .key file that `airlock keys generate` or `cosign generate-key-pair` made, or openssl's: ECDSA P-256, in PEM";
const KDF: &str = "scrypt";
const CIPHER: &str = "nacl/secretbox";
/// Scrypt's cost for keys made here: 32 MiB for a moment. cosign's own keys cost 64 MiB; both take both.
const SCRYPT: Params = Params { n: 1 << 15, r: 8, p: 1 };
/// Highest scrypt cost that is taken, in bytes: a key file must not eat a machine's memory.
const SCRYPT_CAP: u64 = 256 << 20;

/// A private key.
pub struct SigningKey(pub(super) p256::ecdsa::SigningKey);

/// A public key.
#[derive(Clone, Debug)]
pub struct PublicKey(pub(super) p256::ecdsa::VerifyingKey);

/// The JSON inside the PEM; fields in cosign's order.
#[derive(Serialize, Deserialize)]
struct Encrypted {
    kdf: Kdf,
    cipher: Cipher,
    ciphertext: String,
}

#[derive(Serialize, Deserialize)]
struct Kdf {
    name: String,
    params: Params,
    salt: String,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
struct Params {
    #[serde(rename = "N")]
    n: u64,
    r: u32,
    p: u32,
}

#[derive(Serialize, Deserialize)]
struct Cipher {
    name: String,
    nonce: String,
}

impl SigningKey {
    /// A new key, from the system's randomness.
    ///
    /// # Errors
    /// When the system gives none.
    pub fn generate() -> Result<Self> {
        loop {
            let bytes: [u8; 32] = random()?;
            // All but one in 2^32 numbers are a key.
            if let Ok(key) = p256::ecdsa::SigningKey::from_slice(&bytes) {
                return Ok(Self(key));
            }
        }
    }

    /// Its public half.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        PublicKey(*self.0.verifying_key())
    }

    /// The key file.
    ///
    /// # Errors
    /// When the password is empty, which locks nothing, or the system gives no randomness.
    pub fn to_cosign_pem(&self, password: &[u8]) -> Result<String> {
        let doing = "encrypting the private key";
        if password.is_empty() {
            return Err(Error::input(doing, "the password is empty"));
        }
        let der =
            p256::SecretKey::from(&self.0).to_pkcs8_der().map_err(|e| Error::input(doing, e.to_string()))?;
        let (salt, nonce): ([u8; 32], [u8; 24]) = (random()?, random()?);
        let sealed = secretbox(password, &salt, SCRYPT)?
            .encrypt(&nonce.into(), der.as_bytes())
            .map_err(|e| Error::input(doing, e.to_string()))?;
        let encrypted = Encrypted {
            kdf: Kdf { name: KDF.into(), params: SCRYPT, salt: BASE64.encode(salt) },
            cipher: Cipher { name: CIPHER.into(), nonce: BASE64.encode(nonce) },
            ciphertext: BASE64.encode(sealed),
        };
        let json = serde_json::to_vec(&encrypted).map_err(|e| Error::input(doing, e))?;
        Ok(pem::write(LABELS[0], &json))
    }

    /// Reads a key file: ours or cosign's, whose password is asked for, or a plain one (PKCS #8, or SEC 1 as `openssl ecparam`
    /// writes it).
    ///
    /// # Errors
    /// When it is none, is of another kind, or the password is wrong.
    pub fn from_pem<P: AsRef<[u8]>>(text: &str, password: impl FnOnce() -> Result<P>) -> Result<Self> {
        let doing = "opening the private key";
        let other = || Error::input(doing, "it is not an ECDSA P-256 key, or damaged").hint(PRIVATE_KEY);
        let locked = || {
            Error::input(doing, "it is locked with a password in openssl's way")
                .hint("have openssl sign: --signer 'openssl dgst -sha256 -sign FILE' --public-key FILE")
        };
        // `openssl ecparam` writes the curve's name in front of it, in a block of its own.
        let has = |label: &str| text.contains(&format!("-----BEGIN {label}-----"));
        let key = if has(SEC1) {
            if text.contains("ENCRYPTED") {
                return Err(locked());
            }
            pem::strict(text, &[SEC1]).and_then(|pem| p256::SecretKey::from_sec1_pem(&pem).ok())
        } else if has(PKCS8) {
            pem::strict(text, &[PKCS8]).and_then(|pem| p256::SecretKey::from_pkcs8_pem(&pem).ok())
        } else if has("ENCRYPTED PRIVATE KEY") {
            return Err(locked());
        } else if LABELS.iter().any(|label| has(label)) {
            return Self::from_cosign_pem(text, password()?.as_ref());
        } else {
            // Refused, without a question for its password.
            return Self::from_cosign_pem(text, b"");
        };
        key.map(|key| Self(key.into())).ok_or_else(other)
    }

    /// Reads a key file of ours or cosign's.
    ///
    /// # Errors
    /// When it is none, is of another kind, or the password is wrong.
    pub fn from_cosign_pem(text: &str, password: &[u8]) -> Result<Self> {
        let doing = "opening the private key";
        let refuse = |why: &str| Error::input(doing, why.to_string()).hint(PRIVATE_KEY);
        let json = pem::content(text, &LABELS).ok_or_else(|| match pem::label(text) {
            None => refuse(&format!("the file is not a key: it has no -----BEGIN {}-----", LABELS[0])),
            Some(label) if LABELS.contains(&label) => refuse("it is damaged: its content is not base64"),
            Some(other) => refuse(&format!("the file is a {other}, not an {}", LABELS[0])),
        })?;
        let encrypted: Encrypted = serde_json::from_slice(&json).map_err(|e| refuse(&e.to_string()))?;
        if encrypted.kdf.name != KDF || encrypted.cipher.name != CIPHER {
            return Err(refuse(&format!(
                "it is locked with {} and {}",
                encrypted.kdf.name, encrypted.cipher.name
            )));
        }
        let decode = |text: &str| BASE64.decode(text).map_err(|e| refuse(&e.to_string()));
        let nonce: [u8; 24] =
            decode(&encrypted.cipher.nonce)?.try_into().map_err(|_| refuse("its nonce is not 24 bytes"))?;
        let cipher = secretbox(password, &decode(&encrypted.kdf.salt)?, encrypted.kdf.params)?;
        let der = cipher.decrypt(&nonce.into(), decode(&encrypted.ciphertext)?.as_slice()).map_err(|_| {
            Error::input(doing, "the password is wrong, or the file damaged")
                .hint("give the password in a file with --password-file, or in AIRLOCK_PASSWORD")
        })?;
        let key =
            p256::SecretKey::from_pkcs8_der(&der).map_err(|_| refuse("it is not an ECDSA P-256 key"))?;
        Ok(Self(key.into()))
    }
}

impl PublicKey {
    /// Reads a PEM file with a public key (SubjectPublicKeyInfo, RFC 5280).
    ///
    /// # Errors
    /// When it is none, or not ECDSA P-256.
    pub fn from_pem(text: &str) -> Result<Self> {
        if text.contains("PRIVATE KEY") {
            return Err(Error::input("opening the public key", "this is a private key")
                .hint("give the .pub file; and keep the private one off sites"));
        }
        // The parser's own words are about bytes; a person has taken the wrong file.
        let key = pem::strict(text, &[PUBLIC]);
        let key = key.and_then(|pem| p256::ecdsa::VerifyingKey::from_public_key_pem(&pem).ok());
        key.map(Self).ok_or_else(|| {
            let why = match pem::label(text) {
                None => "the file is not a key: it has no -----BEGIN PUBLIC KEY-----".into(),
                Some(PUBLIC) => "it is not an ECDSA P-256 key, or damaged".into(),
                Some(other) => format!("the file is a {other}, not a PUBLIC KEY"),
            };
            Error::input("opening the public key", why).hint(
                "give the .pub file that `airlock keys generate` or `cosign generate-key-pair` made: ECDSA P-256, in PEM",
            )
        })
    }

    /// Reads a key out of a file, as [`Self::from_pem`].
    ///
    /// # Errors
    /// When it can't be read, or is none.
    pub fn read(path: &Path) -> Result<Self> {
        let reading = || format!("reading public key {}", path.display());
        let bytes = file::read(path, file::TEXT_CAP).map_err(|e| Error::unreadable(reading(), e))?;
        Self::from_pem(&String::from_utf8_lossy(&bytes)).map_err(|e| e.within(reading()))
    }

    /// The PEM file.
    ///
    /// # Errors
    /// None that can be caused by input.
    pub fn to_pem(&self) -> Result<String> {
        self.0
            .to_public_key_pem(LineEnding::LF)
            .map_err(|e| Error::input("writing the public key", e.to_string()))
    }

    /// What the key is called: SHA-256 of its SubjectPublicKeyInfo (DER), in hexadecimal digits.
    #[must_use]
    pub fn key_id(&self) -> String {
        // A point on the curve always has an encoding.
        self.0.to_public_key_der().map(|der| Digest::of(der.as_bytes()).hex()).unwrap_or_default()
    }
}

/// Writes `NAME.key`, readable by its owner only, and `NAME.pub` into `directory`.
///
/// # Errors
/// When one of them is there already, or can't be written; no half of a pair is left.
pub fn write_key_pair(
    directory: &Path,
    name: &str,
    key: &SigningKey,
    password: &[u8],
) -> Result<(PathBuf, PathBuf)> {
    let (private, public) = (directory.join(format!("{name}.key")), directory.join(format!("{name}.pub")));
    let (secret, open) = (key.to_cosign_pem(password)?, key.public_key().to_pem()?);
    create(&private, 0o600, &secret)?;
    if let Err(error) = create(&public, 0o644, &open) {
        // Made a moment ago by us, and worth nothing alone.
        let _ = std::fs::remove_file(&private);
        return Err(error);
    }
    Ok((private, public))
}

fn create(path: &Path, mode: u32, text: &str) -> Result<()> {
    let writing = |e: std::io::Error| {
        let doing = format!("writing key {}", path.display());
        match e.kind() {
            std::io::ErrorKind::AlreadyExists => Error::input(doing, e)
                .hint("keys are never overwritten: choose another --name or --output-dir"),
            _ => Error::unwritable(doing, e, "--output-dir"),
        }
    };
    let mut file = File::options().write(true).create_new(true).mode(mode).open(path).map_err(writing)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(|e| {
        let _ = std::fs::remove_file(path);
        writing(e)
    })
}

fn secretbox(password: &[u8], salt: &[u8], params: Params) -> Result<XSalsa20Poly1305> {
    let refuse = |why: String| Error::input("opening the private key", why);
    let Params { n, r, p } = params;
    // RFC 7914: N is a power of two; memory is 128 * N * r bytes, and time grows with p.
    let memory = n.saturating_mul(128).saturating_mul(u64::from(r));
    if !n.is_power_of_two() || n < 2 || memory > SCRYPT_CAP || p > 16 {
        return Err(refuse(format!("its scrypt parameters N={n} r={r} p={p} are not taken")));
    }
    let params = scrypt::Params::new(n.trailing_zeros() as u8, r, p).map_err(|e| refuse(e.to_string()))?;
    let mut key = [0; 32];
    scrypt::scrypt(password, salt, &params, &mut key).map_err(|e| refuse(e.to_string()))?;
    Ok(XSalsa20Poly1305::new(&key.into()))
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|e| Error::input("asking the system for randomness", e.to_string()))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_file_opens_with_its_password_only() {
        let key = SigningKey::generate().expect("a key");
        let pem = key.to_cosign_pem(b"secret").expect("a key file");
        let again = SigningKey::from_cosign_pem(&pem, b"secret").expect("the key");
        assert_eq!(again.public_key().key_id(), key.public_key().key_id());
        let wrong = SigningKey::from_cosign_pem(&pem, b"Secret").err().expect("a wrong password");
        assert!(wrong.to_string().contains("password is wrong"), "{wrong}");
        let old = pem.replace(LABELS[0], LABELS[1]);
        assert!(SigningKey::from_cosign_pem(&old, b"secret").is_ok());
    }

    #[test]
    fn key_files_that_would_eat_the_machine_are_refused() {
        let pem = SigningKey::generate().expect("a key").to_cosign_pem(b"x").expect("a key file");
        let json = String::from_utf8(pem::content(&pem, &LABELS).expect("PEM")).expect("JSON");
        for (n, r, p) in [
            ("1099511627776", "8", "1"),
            ("32768", "4294967295", "1"),
            ("32768", "8", "1000"),
            ("32767", "8", "1"),
            ("0", "8", "1"),
            ("1", "8", "1"),
            ("32768", "0", "1"),
        ] {
            let params = format!("{{\"N\":{n},\"r\":{r},\"p\":{p}}}");
            let bad = json.replace(r#"{"N":32768,"r":8,"p":1}"#, &params);
            assert_ne!(bad, json);
            let pem = format!("-----BEGIN {0}-----\n{1}\n-----END {0}-----\n", LABELS[0], BASE64.encode(bad));
            assert!(SigningKey::from_cosign_pem(&pem, b"x").is_err(), "{params}");
        }
    }

    #[test]
    fn public_keys_are_read_and_others_refused() {
        let key = SigningKey::generate().expect("a key").public_key();
        let pem = key.to_pem().expect("PEM");
        assert_eq!(PublicKey::from_pem(&pem).expect("the key").key_id(), key.key_id());
        // Ed25519, from RFC 8410.
        let ed25519 = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";
        for text in ["", "hello", ed25519, &pem.replace("PUBLIC", "PRIVATE")] {
            assert!(PublicKey::from_pem(text).is_err(), "{text}");
        }
    }

    #[test]
    fn pem_is_read_however_it_is_wrapped() {
        let key = SigningKey::generate().expect("a key");
        let id = key.public_key().key_id();
        let secret = p256::SecretKey::from(&key.0);
        let pkcs8 = secret.to_pkcs8_pem(LineEnding::LF).expect("PEM").to_string();
        let sec1 = secret.to_sec1_pem(LineEnding::LF).expect("PEM").to_string();
        let parameters = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
        let locked = key.to_cosign_pem(b"x").expect("PEM");
        let public = key.public_key().to_pem().expect("PEM");
        // The lines of the block, and of all of the text.
        let wrapped = |pem: &str, width: usize| {
            let lines: Vec<&str> = pem.lines().collect();
            let body = lines[1..lines.len() - 1].concat();
            let body: Vec<_> = body.as_bytes().chunks(width).map(String::from_utf8_lossy).collect();
            format!("{}\n{}\n{}\n", lines[0], body.join("\n"), lines[lines.len() - 1])
        };
        let spellings = |pem: &str| {
            let mut all: Vec<String> = [1, 16, 63, 65, 76, 10_000].map(|width| wrapped(pem, width)).into();
            all.push(pem.replace('\n', "\r\n"));
            all.push(format!("\u{feff}Bag Attributes\n  friendlyName: x\n{pem}\n\n \nbehind it\n"));
            all.push(pem.trim_end().into());
            all.push(pem.replace('\n', "  \n"));
            all
        };
        let private = [pkcs8, sec1.clone(), locked].iter().flat_map(|pem| spellings(pem)).collect::<Vec<_>>();
        for pem in private.into_iter().chain([format!("{parameters}{sec1}")]) {
            let read = SigningKey::from_pem(&pem, || Ok(b"x")).unwrap_or_else(|e| unreachable!("{e}: {pem}"));
            assert_eq!(read.public_key().key_id(), id);
        }
        for pem in spellings(&public) {
            assert_eq!(PublicKey::from_pem(&pem).expect(&pem).key_id(), id);
        }
        for damaged in [public.replace("MF", "M!"), public.replace("-----END", "----END")] {
            let error = PublicKey::from_pem(&damaged).expect_err("damaged").to_string();
            assert!(error.contains("damaged"), "{error}");
        }
    }

    #[test]
    fn an_empty_password_locks_no_new_key() {
        let key = SigningKey::generate().expect("a key");
        assert!(key.to_cosign_pem(b"").is_err());
        let dir = tempfile::tempdir().expect("a directory");
        assert!(write_key_pair(dir.path(), "a", &key, b"").is_err());
        assert_eq!(std::fs::read_dir(dir.path()).expect("read").count(), 0);
    }

    #[test]
    fn key_pairs_are_never_overwritten() {
        let dir = tempfile::tempdir().expect("a directory");
        let key = SigningKey::generate().expect("a key");
        write_key_pair(dir.path(), "a", &key, b"x").expect("a pair");
        let before = std::fs::read(dir.path().join("a.key")).expect("the key");
        assert!(write_key_pair(dir.path(), "a", &key, b"x").is_err());
        assert_eq!(before, std::fs::read(dir.path().join("a.key")).expect("the key"));
        std::fs::write(dir.path().join("b.pub"), "mine").expect("a file");
        assert!(write_key_pair(dir.path(), "b", &key, b"x").is_err());
        assert!(!dir.path().join("b.key").exists());
    }
}
