//! Whom a site trusts with what: keys, how many of them must agree, which bundles, and from which serial on; in a file that
//! only a newer one replaces, signed by the keys of the one before.
//!
//! Threat model: the policy that is there is the site's own, and as safe as the disk that it is on. A new one comes from
//! anywhere: it is believed as far as the old one's keys say so, and never when it is older.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::bundle::MAX_SIGNATURES;
use crate::error::{Error, Result};
use crate::file;
use crate::format::Manifest;
use crate::sign::{self, ENTRY_SIZE, PublicKey, Signer};
use crate::verify::Trust;

/// What a policy says it is, so that nobody's signature over something else passes for one.
const KIND: &str = "airlock trust policy 1";

/// Permissions of a file with signatures.
const PUBLIC: u32 = 0o644;

/// A policy as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Document {
    kind: String,
    /// Of the policy.
    serial: u64,
    #[serde(default = "one")]
    required: usize,
    /// Names, or their beginnings with a `*` behind; empty for all.
    #[serde(default)]
    bundles: Vec<String>,
    #[serde(default)]
    minimum_serial: BTreeMap<String, u64>,
    #[serde(rename = "key")]
    keys: Vec<Key>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Key {
    /// For people.
    name: String,
    /// The public key.
    pem: String,
}

fn one() -> usize {
    1
}

/// Whom a site trusts.
#[derive(Debug)]
pub struct Policy {
    serial: u64,
    required: usize,
    bundles: Vec<String>,
    minimum_serial: BTreeMap<String, u64>,
    /// With their names.
    keys: Vec<(String, PublicKey)>,
}

impl Policy {
    /// Reads a policy's text.
    ///
    /// # Errors
    /// When it is none, has no keys, the same key twice, or wants more signatures than it has keys.
    pub fn from_toml(text: &str) -> Result<Self> {
        let refuse = |why: String| Error::input("reading a trust policy", why);
        let document: Document = toml::from_str(text).map_err(|e| refuse(e.to_string()))?;
        if document.kind != KIND {
            return Err(refuse(format!("its kind is {:?}, not {KIND:?}", document.kind)));
        }
        let mut keys: Vec<(String, PublicKey)> = Vec::new();
        for Key { name, pem } in document.keys {
            let key = PublicKey::from_pem(&pem).map_err(|e| e.within(format!("reading key {name:?}")))?;
            if let Some((other, _)) = keys.iter().find(|(_, there)| there.key_id() == key.key_id()) {
                return Err(refuse(format!("{name:?} and {other:?} are the same key")));
            }
            keys.push((name, key));
        }
        if !(1..=keys.len()).contains(&document.required) {
            return Err(refuse(format!("{} of {} keys can't be required", document.required, keys.len())));
        }
        let Document { serial, required, bundles, minimum_serial, .. } = document;
        if let Some(name) = minimum_serial.keys().find(|name| !is_for(&bundles, name)) {
            return Err(refuse(format!(
                "it has a minimum serial for {name:?}, and is not for bundles of that name"
            )));
        }
        Ok(Self { serial, required, bundles, minimum_serial, keys })
    }

    /// Reads a policy's file.
    ///
    /// # Errors
    /// As [`Self::from_toml`], and when it can't be read.
    pub fn read(path: &Path) -> Result<Self> {
        read(path).map(|(policy, _)| policy)
    }

    /// Its own number: a newer policy has a higher one.
    #[must_use]
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// How many of its keys must have signed a bundle.
    #[must_use]
    pub fn required(&self) -> usize {
        self.required
    }

    /// Names of the bundles that it is for, `*` behind the beginning of several; empty for all.
    #[must_use]
    pub fn bundles(&self) -> &[String] {
        &self.bundles
    }

    /// The lowest serial that a bundle of a name may have.
    #[must_use]
    pub fn minimum_serial(&self) -> &BTreeMap<String, u64> {
        &self.minimum_serial
    }

    /// Its keys' names, with their ids.
    pub fn keys(&self) -> impl Iterator<Item = (&str, String)> {
        self.keys.iter().map(|(name, key)| (name.as_str(), key.key_id()))
    }

    /// Whose signatures count.
    #[must_use]
    pub fn trust(&self) -> Trust {
        Trust::Keys { keys: self.public_keys(), required: self.required }
    }

    fn public_keys(&self) -> Vec<PublicKey> {
        self.keys.iter().map(|(_, key)| key.clone()).collect()
    }

    /// Whether a bundle is one that its keys may sign, and new enough.
    ///
    /// # Errors
    /// When it is not.
    pub fn check(&self, manifest: &Manifest) -> Result<()> {
        let name = &manifest.name;
        let refuse =
            |why: String| Error::trust(format!("checking bundle {name} against the trust policy"), why);
        if !is_for(&self.bundles, name) {
            return Err(refuse(format!(
                "bundles of that name are not trusted here, only {}",
                self.bundles.join(", ")
            )));
        }
        match self.minimum_serial.get(name) {
            Some(minimum) if manifest.serial < *minimum => {
                Err(refuse(format!("its serial is {}, and {minimum} at least is wanted", manifest.serial))
                    .hint("it is older than what the site wants: get a newer bundle"))
            }
            _ => Ok(()),
        }
    }
}

/// Whether one of these patterns, if there are any, is for bundles of a name.
fn is_for(bundles: &[String], name: &str) -> bool {
    let is_named = |pattern: &String| match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => pattern == name,
    };
    bundles.is_empty() || bundles.iter().any(is_named)
}

/// A policy, and its text as it was read.
fn read(path: &Path) -> Result<(Policy, String)> {
    let reading = || format!("reading {}", path.display());
    let text = file::read_text(path).map_err(|e| Error::input(reading(), e))?;
    Ok((Policy::from_toml(&text).map_err(|e| e.within(reading()))?, text))
}

/// A policy's file with what was signed of it.
pub struct Signed {
    path: PathBuf,
    policy: Policy,
    /// What is signed.
    text: String,
    entries: Vec<u8>,
}

impl Signed {
    /// Reads a policy, and the signatures beside it, if there are any.
    ///
    /// # Errors
    /// When it can't be read, or is none.
    pub fn read(path: &Path) -> Result<Self> {
        let (policy, text) = read(path)?;
        let beside = beside(path);
        let entries = match file::read(&beside, MAX_SIGNATURES as u64 * ENTRY_SIZE) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(Error::input(format!("reading {}", beside.display()), e)),
        };
        Ok(Self { path: path.into(), policy, text, entries })
    }

    /// Adds a signature to those beside it, of which go an older one of the same key, and all that are for what it was before it was
    /// changed.
    ///
    /// # Errors
    /// When it can't be made or written.
    pub fn add(&mut self, signer: &Signer) -> Result<()> {
        let added = signer.entry(self.text.as_bytes())?;
        let by = sign::signer(&added)?;
        let stays = |entry: &&[u8]| {
            sign::is_for(entry, self.text.as_bytes()) && sign::signer(entry).is_ok_and(|other| other != by)
        };
        let entries = self.entries.chunks(ENTRY_SIZE as usize).filter(stays).chain([added.as_slice()]);
        self.entries = entries.collect::<Vec<_>>().concat();
        put(&beside(&self.path), &self.entries, PUBLIC)
    }

    /// Puts it in the place of another, if that one's keys say so.
    ///
    /// # Errors
    /// When too few of them have signed it, or it is not newer.
    pub fn replace(self, current: &Path) -> Result<Policy> {
        let by = self.path.display();
        let doing = || format!("replacing {} by {by}", current.display());
        let old = Policy::read(current)?;
        let entries: Vec<&[u8]> = self.entries.chunks(ENTRY_SIZE as usize).collect();
        sign::verify_all(&entries, self.text.as_bytes(), &old.public_keys(), old.required).map_err(|e| {
            let beside = beside(&self.path);
            e.within(doing()).hint(format!(
                "its signatures are in {}: who holds the keys of the old policy adds them with `airlock trust sign {by}`",
                beside.display()
            ))
        })?;
        let new = self.policy;
        if new.serial <= old.serial {
            let why =
                format!("its serial is {}, and that of the one that is there {}", new.serial, old.serial);
            return Err(Error::trust(doing(), why).hint("a policy is replaced by a newer one only"));
        }
        // Where it is a link, what that leads to; and who may read it still may.
        let writing = |e| Error::input(doing(), e);
        let there = current.canonicalize().map_err(writing)?;
        let mode = there.metadata().map_err(writing)?.permissions().mode() & 0o777;
        put(&there, self.text.as_bytes(), mode)?;
        Ok(new)
    }
}

/// Where the signatures of a policy are.
fn beside(path: &Path) -> PathBuf {
    file::beside(path, sign::BESIDE)
}

fn put(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    file::replace(path, bytes, mode).map_err(|e| Error::input(format!("writing {}", path.display()), e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sign::SigningKey;

    fn key() -> SigningKey {
        SigningKey::generate().expect("a key")
    }

    fn policy(serial: u64, rest: &str, keys: &[&SigningKey]) -> String {
        let mut text = format!("kind = \"{KIND}\"\nserial = {serial}\n{rest}\n");
        for (number, key) in keys.iter().enumerate() {
            let pem = key.public_key().to_pem().expect("a key");
            text += &format!("[[key]]\nname = \"key {number}\"\npem = \"\"\"\n{pem}\"\"\"\n");
        }
        text
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let (a, b) = (key(), key());
        Policy::from_toml(&policy(1, "required = 2", &[&a, &b])).expect("a policy");
        for (text, why) in [
            (policy(1, "", &[]), "missing field `key`"),
            (policy(1, "required = 0", &[&a]), "0 of 1 keys"),
            (policy(1, "required = 3", &[&a, &b]), "3 of 2 keys"),
            (policy(1, "", &[&a, &a]), "are the same key"),
            (policy(1, "required-signatures = 2", &[&a]), "unknown field"),
            (
                policy(1, "bundles = [\"app\"]\nminimum-serial = { apq = 5 }", &[&a]),
                "for \"apq\", and is not for",
            ),
            (policy(1, "", &[&a]).replace("policy 1", "policy 2"), "its kind is"),
            (policy(1, "", &[&a]).replace("PUBLIC KEY", "PRIVATE KEY"), "this is a private key"),
        ] {
            let error = Policy::from_toml(&text).expect_err(why).to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn a_newer_policy_takes_the_place_of_an_older_one_if_its_keys_say_so() {
        let (old, other, new) = (key(), key(), key());
        let dir = tempfile::tempdir().expect("a directory");
        let (current, next) = (dir.path().join("trust.toml"), dir.path().join("next.toml"));
        std::fs::write(&current, policy(3, "required = 2", &[&old, &other])).expect("written");
        let replace = || Signed::read(&next)?.replace(&current);
        let sign = |key: SigningKey| {
            let mut signed = Signed::read(&next).expect("the policy");
            signed.add(&Signer::Key(key)).expect("signed");
        };
        let reread = |key: &SigningKey| {
            let pem = key.to_cosign_pem(b"x").expect("a key");
            SigningKey::from_cosign_pem(&pem, b"x").expect("the key")
        };
        let put_next = |serial| {
            let _ = std::fs::remove_file(beside(&next));
            std::fs::write(&next, policy(serial, "", &[&new])).expect("written");
        };
        put_next(4);
        assert!(replace().expect_err("unsigned").to_string().contains("not signed"));
        sign(reread(&new));
        sign(reread(&old));
        assert!(replace().expect_err("one of two").to_string().contains("2 must have"));
        sign(reread(&other));
        assert_eq!(replace().expect("replaced").serial(), 4);
        let there = Policy::read(&current).expect("the policy");
        assert_eq!(there.keys().map(|(_, id)| id).collect::<Vec<_>>(), [new.public_key().key_id()]);
        // The same again, and an older one, whoever signs.
        for serial in [4, 3] {
            put_next(serial);
            sign(reread(&new));
            assert!(replace().expect_err("not newer").to_string().contains("its serial is"));
        }
        // Changed after it was signed.
        put_next(5);
        sign(reread(&new));
        std::fs::write(&next, policy(6, "", &[&new])).expect("written");
        assert!(replace().expect_err("changed").to_string().contains("does not hold"));
        // Signed again, it is as good as new; what reads it is what read the old one, by the name that it has.
        sign(reread(&new));
        sign(reread(&new));
        assert_eq!(std::fs::metadata(beside(&next)).expect("signatures").len(), ENTRY_SIZE);
        let (link, mode) = (dir.path().join("link.toml"), std::fs::Permissions::from_mode(0o640));
        std::os::unix::fs::symlink(&current, &link).expect("a link");
        std::fs::set_permissions(&current, mode).expect("permissions");
        assert_eq!(Signed::read(&next).and_then(|next| next.replace(&link)).expect("replaced").serial(), 6);
        let there = std::fs::symlink_metadata(&current).expect("the policy");
        assert_eq!(
            (Policy::read(&current).expect("it").serial(), there.permissions().mode() & 0o777),
            (6, 0o640)
        );
        assert!(std::fs::symlink_metadata(&link).expect("a link").is_symlink());
    }
}
