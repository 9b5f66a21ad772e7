//! What was installed: a document that the site signs, kept in the cluster, and to carry back.
//!
//! A receipt is JSON whose stored bytes are signed, like a bundle's manifest and in the same form; it names its kind, so
//! that no signature of the one can pass for the other. In the cluster it is a Secret of type [`SECRET_TYPE`] in the
//! namespace of each release, the newest [`KEPT`] of each bundle and action.
//!
//! Threat model: who can write Secrets in a namespace can take receipts away, and make some that nobody has signed; without the
//! site's key he can't make one that counts where that key is given.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::cluster::{Cluster, Metadata};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::file;
use crate::format::Manifest;
use crate::install::Installed;
use crate::reference::{Mapping, Reference};
use crate::sign::{self, PublicKey, SigningKey};

/// `kind` of a receipt; no other signed document has it.
pub const KIND: &str = "dev.airlock.receipt";
/// Version of the format.
pub const VERSION: u32 = 1;
/// Type of the Secret that keeps one.
pub const SECRET_TYPE: &str = "airlock.dev/receipt";
/// How many of each action are kept of a bundle in a namespace.
pub const KEPT: usize = 10;
/// Keys in the Secret.
const DOCUMENT: &str = "receipt.json";
const SIGNATURE: &str = "receipt.sigstore.json";
/// Most that a receipt has, in bytes: a Secret may have a MiB, in base64.
const CAP: usize = 700 << 10;

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Releases were installed or upgraded.
    Install,
    /// A release went back to manifests that an earlier receipt has.
    Rollback,
}

/// A receipt. Fields are in the order of their names, so that the keys in the file are sorted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// What was done.
    pub action: Action,
    /// The bundle that it came out of.
    pub bundle: Bundle,
    /// UID of the cluster's `kube-system` namespace.
    pub cluster: String,
    /// Version of this format.
    pub format: u32,
    /// The bundle's images by reference, each with its digest.
    pub images: BTreeMap<Reference, Digest>,
    /// [`KIND`].
    pub kind: String,
    /// Where images are at the site.
    pub registry: Registry,
    /// What is installed, in this order.
    pub releases: Vec<Installed>,
    /// When (RFC 3339, UTC), by the clock of the machine that installed.
    pub time: String,
}

/// The bundle that something was installed from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bundle {
    /// SHA-256 of its `airlock.json`.
    pub digest: Digest,
    /// Its name.
    pub name: String,
    /// Its serial.
    pub serial: u64,
    /// Id of the key whose signature on it was checked; none if none was.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub signer: Option<String>,
    /// Its version.
    pub version: String,
}

/// The site's registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registry {
    /// Whether the source's host is left out of the repositories' names.
    pub strip_host: bool,
    /// True if every repository is directly below `target`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub flat: bool,
    /// `HOST[:PORT][/PREFIX]`.
    pub target: String,
}

impl Registry {
    /// The mapping that it stands for.
    ///
    /// # Errors
    /// When it is none.
    pub fn mapping(&self) -> Result<Mapping> {
        Mapping::new(&self.target, self.strip_host)
            .map(|mapping| mapping.flat(self.flat))
            .map_err(|e| Error::input("reading a receipt's registry", e))
    }
}

/// A receipt's bytes, and the signature over them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// As they are signed.
    pub document: Vec<u8>,
    /// A Sigstore bundle; none if nobody signed.
    pub signature: Option<Vec<u8>>,
}

/// A receipt that was read, and whose signature on it holds.
#[derive(Clone, Debug, Serialize)]
pub struct Checked {
    /// The receipt.
    pub receipt: Receipt,
    /// Id of the key that signed it, if that was checked.
    pub signed_by: Option<String>,
    /// Id of the key that it says it is signed with, not checked.
    pub claims_key: Option<String>,
}

#[derive(Deserialize)]
struct Preamble {
    kind: String,
    format: u32,
}

#[derive(Deserialize)]
struct Secret {
    metadata: Metadata,
    #[serde(default)]
    data: BTreeMap<String, String>,
}

impl Receipt {
    /// Of an installation, now.
    #[must_use]
    pub fn new(
        manifest: &Manifest,
        manifest_bytes: &[u8],
        signer: Option<&str>,
        registry: Registry,
        cluster: String,
        releases: Vec<Installed>,
    ) -> Self {
        Self {
            action: Action::Install,
            bundle: Bundle {
                digest: Digest::of(manifest_bytes),
                name: manifest.name.clone(),
                serial: manifest.serial,
                signer: signer.map(Into::into),
                version: manifest.version.clone(),
            },
            cluster,
            format: VERSION,
            images: manifest.images.iter().map(|i| (i.reference.clone(), i.digest)).collect(),
            kind: KIND.into(),
            registry,
            releases,
            time: now(),
        }
    }

    /// Of a release that went back to what this receipt is of.
    #[must_use]
    pub fn rolled_back(&self, release: Installed) -> Self {
        Self { action: Action::Rollback, releases: vec![release], time: now(), ..self.clone() }
    }

    /// Its bytes, signed if there is a key.
    ///
    /// # Errors
    /// When it is larger than a Secret may be.
    pub fn sign(&self, key: Option<&SigningKey>) -> Result<Signed> {
        let doing = "writing the receipt";
        let mut document = serde_json::to_vec_pretty(self).map_err(|e| Error::input(doing, e))?;
        document.push(b'\n');
        if document.len() > CAP {
            return Err(Error::input(doing, format!("it has {} bytes, and may have {CAP}", document.len())));
        }
        let signature = key.map(|key| sign::sign(key, &document)).transpose()?;
        Ok(Signed { document, signature })
    }

    /// The release of this name, if it is in it.
    #[must_use]
    pub fn release(&self, name: &str, namespace: &str) -> Option<&Installed> {
        self.releases.iter().find(|r| r.release == name && r.namespace == namespace)
    }
}

fn now() -> String {
    chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

impl Signed {
    /// Reads it; with `keys`, one of them must have signed it.
    ///
    /// # Errors
    /// When it is no receipt, or the signature does not hold.
    pub fn check(&self, keys: &[PublicKey]) -> Result<Checked> {
        let doing = "reading a receipt";
        let refuse = |why: String| Error::input(doing, why);
        let claims_key = self.signature.as_deref().and_then(sign::signer_hint);
        let signed_by = match (&self.signature, keys) {
            (_, []) => None,
            (None, _) => {
                return Err(
                    Error::trust(doing, "nobody signed it").hint("receipts are signed with --site-key")
                );
            }
            (Some(signature), keys) => {
                Some(sign::verify(signature, &self.document, keys).map_err(|e| e.within(doing))?)
            }
        };
        let preamble: Preamble =
            serde_json::from_slice(&self.document).map_err(|e| refuse(format!("it is none: {e}")))?;
        if preamble.kind != KIND {
            return Err(Error::trust(doing, format!("it is a {:?}, not a {KIND:?}", preamble.kind)));
        }
        if preamble.format != VERSION {
            return Err(refuse(format!(
                "it has format version {}; this airlock reads {VERSION}",
                preamble.format
            )));
        }
        let receipt = serde_json::from_slice(&self.document).map_err(|e| refuse(e.to_string()))?;
        Ok(Checked { receipt, signed_by, claims_key })
    }

    /// Writes it to `path`, and its signature beside it, `path` with `.sigstore.json` after it; without one, none is there then.
    ///
    /// # Errors
    /// When they can't be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let writing = |e| Error::unwritable(format!("writing receipt {}", path.display()), e, "--receipt");
        file::replace(path, &self.document, 0o644).map_err(writing)?;
        match &self.signature {
            Some(signature) => file::replace(&beside(path), signature, 0o644).map_err(writing),
            None => match std::fs::remove_file(beside(path)) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(writing(e)),
                _ => Ok(()),
            },
        }
    }

    /// Reads what [`Self::write`] wrote.
    ///
    /// # Errors
    /// When it is not there, or too large.
    pub fn read(path: &Path) -> Result<Self> {
        let reading = |e| Error::input(format!("reading receipt {}", path.display()), e);
        let document = file::read(path, CAP as u64).map_err(reading)?;
        let signature = match file::read(&beside(path), sign::ENTRY_SIZE) {
            Ok(signature) => Some(signature),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) => return Err(reading(e)),
        };
        Ok(Self { document, signature })
    }

    /// Keeps it in the cluster, in each namespace of its releases; the oldest of the same bundle go.
    ///
    /// # Errors
    /// When a Secret can't be made.
    pub async fn keep(&self, cluster: &Cluster, receipt: &Receipt) -> Result<()> {
        let mut data = json!({DOCUMENT: BASE64.encode(&self.document)});
        if let Some(signature) = &self.signature {
            data[SIGNATURE] = BASE64.encode(signature).into();
        }
        let name = format!("airlock-receipt-{}", &Digest::of(&self.document).hex()[..16]);
        let object = json!({
            "apiVersion": "v1", "kind": "Secret", "type": SECRET_TYPE, "immutable": true, "data": data,
            "metadata": {"name": name, "labels": {"app.kubernetes.io/managed-by": "airlock"}},
        });
        let mut namespaces: Vec<&str> = receipt.releases.iter().map(|r| r.namespace.as_str()).collect();
        namespaces.sort_unstable();
        namespaces.dedup();
        for namespace in namespaces {
            let path = secrets(namespace);
            cluster.create(&path, &object).await.map_err(|e| e.within("keeping the receipt"))?;
            let mut kept = found(cluster, namespace).await?;
            // Each action by itself: however often something is rolled back, the last installation is known.
            let is_same =
                |other: &Receipt| other.bundle.name == receipt.bundle.name && other.action == receipt.action;
            kept.retain(|(_, signed)| signed.check(&[]).is_ok_and(|checked| is_same(&checked.receipt)));
            for (old, _) in kept.iter().skip(KEPT) {
                cluster.delete(&format!("{path}/{old}")).await?;
            }
        }
        Ok(())
    }
}

fn beside(path: &Path) -> PathBuf {
    file::beside(path, sign::BESIDE)
}

fn secrets(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/secrets")
}

/// The receipts in a namespace, newest first. With `keys`, those that none of them signed are left out.
///
/// # Errors
/// When Secrets can't be listed.
pub async fn receipts(cluster: &Cluster, namespace: &str, keys: &[PublicKey]) -> Result<Vec<Checked>> {
    let all = found(cluster, namespace).await?.into_iter().filter_map(|(name, signed)| {
        signed.check(keys).inspect_err(|error| tracing::warn!("Secret {namespace}/{name}: {error}")).ok()
    });
    let all = all.collect();
    // Who may not ask for the cluster's id goes without.
    Ok(if keys.is_empty() { all } else { by_their_own_words(all, cluster.id().await.ok().as_deref()) })
}

/// Newest first by the times that were signed, and none of another cluster: a Secret around an old receipt, or one from elsewhere,
/// is made by anybody who may make Secrets.
fn by_their_own_words(mut receipts: Vec<Checked>, cluster: Option<&str>) -> Vec<Checked> {
    let is_here = |receipt: &Receipt| {
        receipt.cluster.is_empty() || cluster.is_none_or(|cluster| receipt.cluster == cluster)
    };
    receipts.retain(|checked| is_here(&checked.receipt));
    receipts.sort_by_cached_key(|Checked { receipt, .. }| {
        let revision = receipt.releases.iter().map(|release| release.revision).max();
        std::cmp::Reverse((receipt.time.clone(), revision))
    });
    receipts
}

/// Names and contents, newest first.
async fn found(cluster: &Cluster, namespace: &str) -> Result<Vec<(String, Signed)>> {
    let query = format!("fieldSelector=type%3D{}", SECRET_TYPE.replace('/', "%2F"));
    let mut all: Vec<Secret> = cluster.list(&secrets(namespace), &query).await?;
    let decoded = |secret: &Secret, key: &str| BASE64.decode(secret.data.get(key)?).ok();
    all.sort_by_key(|secret| {
        // Several may be made within a second, of which the server's times tell no order.
        let time = decoded(secret, DOCUMENT).and_then(|d| serde_json::from_slice::<Receipt>(&d).ok());
        let revision = time.as_ref().and_then(|r| r.releases.iter().map(|r| r.revision).max());
        std::cmp::Reverse((secret.metadata.creation_timestamp.clone(), time.map(|r| r.time), revision))
    });
    Ok(all
        .iter()
        .filter_map(|secret| {
            let signed =
                Signed { document: decoded(secret, DOCUMENT)?, signature: decoded(secret, SIGNATURE) };
            Some((secret.metadata.name.clone(), signed))
        })
        .collect())
}

/// Refuses a bundle that is older than the one of its name that was installed last. A rollback is of one release only, and changes
/// nothing of that.
///
/// # Errors
/// Of [`crate::Kind::Trust`], with both serials.
pub fn refuse_older(manifest: &Manifest, receipts: &[Checked]) -> Result<()> {
    let mut same = receipts
        .iter()
        .map(|checked| &checked.receipt)
        .filter(|receipt| receipt.bundle.name == manifest.name);
    match same.find(|receipt| receipt.action == Action::Install) {
        Some(last) if last.bundle.serial > manifest.serial => Err(Error::trust(
            "comparing the bundle with what was installed last",
            format!(
                "it is {} {} with serial {}, and serial {} ({}) was installed on {}",
                manifest.name,
                manifest.version,
                manifest.serial,
                last.bundle.serial,
                last.bundle.version,
                last.time
            ),
        )
        .hint("to go back on purpose, say --allow-downgrade; `airlock rollback` takes one release back")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt() -> Receipt {
        let digest = Digest::of(b"x");
        Receipt {
            action: Action::Install,
            bundle: Bundle { digest, name: "app".into(), serial: 7, signer: None, version: "1.0".into() },
            cluster: "uid".into(),
            format: VERSION,
            images: [("redis:8".parse().expect("a reference"), digest)].into(),
            kind: KIND.into(),
            registry: Registry { strip_host: false, flat: false, target: "r.site:5000/m".into() },
            releases: vec![Installed {
                chart: "web".into(),
                manifest: digest,
                namespace: "shop".into(),
                release: "web".into(),
                revision: 3,
                version: "0.1.0".into(),
            }],
            time: now(),
        }
    }

    #[test]
    fn a_receipt_is_signed_read_and_written() {
        let (key, other) = (SigningKey::generate().expect("a key"), SigningKey::generate().expect("a key"));
        let signed = receipt().sign(Some(&key)).expect("signed");
        let checked = signed.check(&[key.public_key()]).expect("checked");
        assert_eq!(checked.receipt, receipt());
        assert_eq!(checked.signed_by, Some(key.public_key().key_id()));
        assert_eq!(signed.check(&[other.public_key()]).expect_err("another key").kind(), crate::Kind::Trust);
        let mut forged = signed.clone();
        forged.document =
            String::from_utf8(forged.document).expect("JSON").replace("app", "abb").into_bytes();
        assert_eq!(forged.check(&[key.public_key()]).expect_err("forged").kind(), crate::Kind::Trust);
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("r.json");
        signed.write(&path).expect("written");
        assert_eq!(Signed::read(&path).expect("read"), signed);
        let unsigned = receipt().sign(None).expect("written");
        unsigned.write(&path).expect("written");
        assert_eq!(Signed::read(&path).expect("read"), unsigned, "the other's signature stayed");
        let mapping = checked.receipt.registry.mapping().expect("a mapping");
        assert_eq!(mapping.under("x"), "m/x");
    }

    #[test]
    fn nothing_else_passes_for_a_receipt() {
        let key = SigningKey::generate().expect("a key");
        let unsigned = receipt().sign(None).expect("written");
        assert!(unsigned.check(&[]).expect("read").signed_by.is_none());
        let error = unsigned.check(&[key.public_key()]).expect_err("nobody signed");
        assert_eq!(error.kind(), crate::Kind::Trust);
        let mut bundle = receipt();
        bundle.kind = crate::format::KIND.into();
        let error =
            bundle.sign(Some(&key)).expect("signed").check(&[key.public_key()]).expect_err("another kind");
        assert!(error.to_string().contains("dev.airlock.bundle"), "{error}");
        let text = Signed { document: b"{}".to_vec(), signature: None };
        assert!(text.check(&[]).is_err());
    }

    #[test]
    fn signed_receipts_are_ordered_by_what_they_say() {
        let of = |time: &str, cluster: &str, serial| {
            let bundle = Bundle { serial, ..receipt().bundle };
            let receipt = Receipt { time: time.into(), cluster: cluster.into(), bundle, ..receipt() };
            Checked { receipt, signed_by: None, claims_key: None }
        };
        // As their Secrets are ordered: an old one that was made again, one of another cluster.
        let all = vec![
            of("2026-01-01T00:00:00Z", "uid", 1),
            of("2026-05-01T00:00:00Z", "other", 2),
            of("2026-03-01T00:00:00Z", "uid", 9),
            of("2026-02-01T00:00:00Z", "", 8),
        ];
        let serials = |cluster| {
            let ordered = by_their_own_words(all.clone(), cluster);
            ordered.iter().map(|checked| checked.receipt.bundle.serial).collect::<Vec<_>>()
        };
        assert_eq!(serials(Some("uid")), [9, 8, 1]);
        assert_eq!(serials(None), [2, 9, 8, 1]);
    }

    #[test]
    fn what_was_installed_last_counts_and_no_rollback_of_a_part() {
        let manifest = |serial: u64| {
            let text = serde_json::json!({
                "charts": [], "created": "2026-01-01T00:00:00Z", "entries": [], "files": [], "images": [], "format": 1, "kind": crate::format::KIND,
                "name": "app", "version": "1.0", "serial": serial,
            });
            serde_json::from_value::<Manifest>(text).expect("a manifest")
        };
        let of = |action, name: &str, serial| {
            let bundle = Bundle { name: name.into(), serial, ..receipt().bundle };
            let receipt = Receipt { action, bundle, ..receipt() };
            Checked { receipt, signed_by: None, claims_key: None }
        };
        // Newest first.
        let receipts = [
            of(Action::Install, "other", 20),
            of(Action::Rollback, "app", 5),
            of(Action::Install, "app", 7),
            of(Action::Install, "app", 9),
        ];
        for serial in [7, 8] {
            refuse_older(&manifest(serial), &receipts).expect("not older");
        }
        assert!(refuse_older(&manifest(6), &receipts).expect_err("older").to_string().contains("serial 7 "));
        refuse_older(&manifest(1), &receipts[..2]).expect("never installed");
    }
}
