//! A certificate authority of the site's own, and the server's certificate by it: TLS without anybody's help.
//!
//! `DIR/ca.pem` is what nodes trust (`airlock mirrors --ca-file`), and stays the same for years; `server.pem` is made anew when it
//! lacks a name or nears its end. `ca.key` stays beside them, with rights for its owner only: who has it can be this registry
//! to every node, so DIR belongs on the machine that serves, and in its backup.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chrono::{Datelike as _, Days, NaiveDate, Utc};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::file;

/// How long the authority is good for, in days.
const CA_DAYS: u64 = 3650;
/// How long a server's certificate is good for, in days; Apple's and others' limit is 825.
const SERVER_DAYS: u64 = 820;
/// A certificate that ends sooner is made anew at the start, in days.
const RENEW_DAYS: u64 = 90;

/// The files of a server's certificate.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The authority's certificate, for those who connect.
    pub ca: PathBuf,
    /// The server's certificate.
    pub certificate: PathBuf,
    /// The server's key.
    pub key: PathBuf,
    /// SHA-256 of the authority's certificate, for comparing by eye.
    pub fingerprint: String,
    /// Whether the authority was made just now.
    pub new_authority: bool,
}

/// Makes in `dir` what is missing there, for a server with these names and addresses; keeps what is good.
///
/// # Errors
/// When the files can't be read or written, or don't belong together.
pub fn issue(dir: &Path, names: &[String]) -> Result<Issued> {
    let at = |name: &str| dir.join(name);
    let (ca, certificate, key) = (at("ca.pem"), at("server.pem"), at("server.key"));
    fs::create_dir_all(dir)
        .map_err(|e| Error::unwritable(format!("making {}", dir.display()), e, "--tls-self-signed"))?;
    let (authority, ca_pem, new_authority) = authority(dir)?;
    let root = CertificateDer::from_pem_slice(ca_pem.as_bytes())
        .map_err(|e| Error::input(format!("reading {}", ca.display()), e.to_string()))?;
    let is_good = || {
        let (chain, key) = (read(&certificate)?, read(&key)?);
        check(&root, &chain.ok()?, &key.ok()?, names).ok()
    };
    if is_good().is_none() {
        let (chain, new_key) = server(&authority, names)?;
        // Key first: without its certificate it is not used, and both are made again.
        put(&key, &new_key, true)?;
        put(&certificate, &chain, false)?;
        check(&root, &chain, &new_key, names).map_err(|why| {
            let action = format!("using the certificate authority in {}", dir.display());
            Error::input(action, why).hint(
                "if it has expired, or ca.pem and ca.key are not of one pair, move the directory away: a new one is made, \
                 whose ca.pem nodes must be given",
            )
        })?;
    }
    let fingerprint = Digest::of(&root).hex();
    Ok(Issued { ca, certificate, key, fingerprint, new_authority })
}

/// The authority in `dir`, made if there is none, with its certificate.
fn authority(dir: &Path) -> Result<(Issuer<'static, KeyPair>, String, bool)> {
    let (ca, key) = (dir.join("ca.pem"), dir.join("ca.key"));
    let reading = |path: &Path| format!("reading {}", path.display());
    let read = |path: &Path| read(path).transpose();
    match (read(&ca)?, read(&key)?) {
        (Some(ca_pem), Some(key_pem)) => {
            let pair = KeyPair::from_pem(&key_pem).map_err(|e| Error::input(reading(&key), e))?;
            Ok((Issuer::new(authority_params(&pair)?, pair), ca_pem, false))
        }
        (None, None) => {
            let pair = KeyPair::generate().map_err(making)?;
            let params = authority_params(&pair)?;
            let ca_pem = params.self_signed(&pair).map_err(making)?.pem();
            put(&key, &pair.serialize_pem(), true)?;
            put(&ca, &ca_pem, false)?;
            Ok((Issuer::new(params, pair), ca_pem, true))
        }
        (found, _) => {
            let (there, gone) = if found.is_some() { (&ca, &key) } else { (&key, &ca) };
            let why = format!("{} is missing beside it", gone.display());
            Err(Error::input(reading(there), why).hint(
                "put it back; or move the directory away: a new authority is made, whose ca.pem nodes must be given",
            ))
        }
    }
}

/// The same for the same key, but for the dates: a certificate by it names its issuer by these.
fn authority_params(pair: &KeyPair) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(vec![]).map_err(making)?;
    let id = Digest::of(pair.public_key_raw()).hex();
    params.distinguished_name = named(&format!("airlock site authority {}", &id[..8]));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    lasts(&mut params, CA_DAYS);
    Ok(params)
}

fn server(authority: &Issuer<KeyPair>, names: &[String]) -> Result<(String, String)> {
    let naming = |e| Error::input(format!("making a certificate for {}", names.join(", ")), e);
    let pair = KeyPair::generate().map_err(making)?;
    let mut params = CertificateParams::new(names).map_err(naming)?;
    params.distinguished_name = named("airlock serve");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    lasts(&mut params, SERVER_DAYS);
    let certificate = params.signed_by(&pair, authority).map_err(naming)?;
    Ok((certificate.pem(), pair.serialize_pem()))
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// From yesterday on: clocks behind an air gap differ.
fn lasts(params: &mut CertificateParams, days: u64) {
    let today = Utc::now().date_naive();
    let day = |date: NaiveDate| {
        let part = |number: u32| u8::try_from(number).unwrap_or(1);
        date_time_ymd(date.year(), part(date.month()), part(date.day()))
    };
    params.not_before = day(today - Days::new(1));
    params.not_after = day(today + Days::new(days));
}

fn making(error: rcgen::Error) -> Error {
    Error::input("making a certificate authority", error)
}

/// Whether those who trust `root` will take the certificate for each name, today and for a while, and the key is its own.
fn check(root: &CertificateDer, chain: &str, key: &str, names: &[String]) -> Result<(), String> {
    let text = |e: &dyn std::error::Error| e.to_string();
    let certificate = CertificateDer::from_pem_slice(chain.as_bytes()).map_err(|e| text(&e))?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|e| text(&e))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    CertifiedKey::from_der(vec![certificate.clone()], key, &provider).map_err(|e| text(&e))?;
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).map_err(|e| text(&e))?;
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
    let verifier = verifier.map_err(|e| text(&e))?;
    let now = UnixTime::now();
    let later = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs() + RENEW_DAYS * 86_400));
    for name in names {
        let name = ServerName::try_from(name.as_str()).map_err(|e| text(&e))?;
        for at in [now, later] {
            verifier.verify_server_cert(&certificate, &[], &name, &[], at).map_err(|e| text(&e))?;
        }
    }
    Ok(())
}

/// The file's text; nothing, where there is no file.
fn read(path: &Path) -> Option<Result<String>> {
    match file::read_text(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => None,
        other => Some(other.map_err(|e| Error::input(format!("reading {}", path.display()), e))),
    }
}

/// Writes a file whole or not at all.
fn put(path: &Path, text: &str, secret: bool) -> Result<()> {
    let written = file::replace(path, text.as_bytes(), if secret { 0o600 } else { 0o644 });
    written.map_err(|e| Error::unwritable(format!("writing {}", path.display()), e, "--tls-self-signed"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_authority_stays_and_the_certificate_follows_its_names() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = dir.path().join("tls");
        let read = |name: &str| fs::read_to_string(dir.join(name)).expect(name);
        let first = issue(&dir, &names(&["site.example", "10.0.0.1", "::1"])).expect("issued");
        assert!(first.new_authority);
        let (ca, server) = (read("ca.pem"), read("server.pem"));
        for (name, mode) in
            [("ca.key", 0o600), ("server.key", 0o600), ("ca.pem", 0o644), ("server.pem", 0o644)]
        {
            let found = fs::metadata(dir.join(name)).expect(name).permissions().mode();
            assert_eq!(found & 0o777, mode, "{name}");
        }
        let again = issue(&dir, &names(&["10.0.0.1"])).expect("issued");
        assert!(!again.new_authority);
        assert_eq!((read("ca.pem"), read("server.pem")), (ca.clone(), server.clone()));
        let other = issue(&dir, &names(&["other.example"])).expect("issued");
        assert_eq!((read("ca.pem"), other.fingerprint), (ca, first.fingerprint));
        assert_ne!(read("server.pem"), server);
        // Half of a pair, as a run that was killed leaves it.
        fs::write(dir.join("server.key"), KeyPair::generate().expect("a key").serialize_pem())
            .expect("written");
        issue(&dir, &names(&["other.example"])).expect("issued");
        fs::remove_file(dir.join("server.pem")).expect("removed");
        issue(&dir, &names(&["other.example"])).expect("issued");
        assert_eq!(fs::read_dir(&dir).expect("a directory").count(), 4, "left-overs");
    }

    #[test]
    fn what_does_not_belong_together_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        let site = names(&["site.example"]);
        let refused = |said: &str| {
            let error = issue(dir.path(), &site).expect_err(said);
            assert!(error.to_string().contains(said), "{error}");
        };
        issue(dir.path(), &site).expect("issued");
        fs::write(at("ca.key"), KeyPair::generate().expect("a key").serialize_pem()).expect("written");
        fs::remove_file(at("server.pem")).expect("removed");
        refused("using the certificate authority");
        fs::write(at("ca.key"), "no key").expect("written");
        refused("ca.key");
        fs::remove_file(at("ca.key")).expect("removed");
        refused("ca.key is missing beside it");
        assert!(issue(dir.path(), &names(&["bad name ü"])).is_err());
        assert!(issue(&at("server.key").join("below"), &site).is_err());
    }
}
