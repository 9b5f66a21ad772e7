//! TLS: whom we trust, on hosts with and without CA files.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::Options;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::file;

/// TLS with the system's roots (Mozilla's, where there are none), those of the options' CA files, and their certificate.
pub(super) fn config(options: &Options) -> Result<ClientConfig> {
    let mut trusted = rustls_native_certs::load_native_certs().certs;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(trusted.iter().cloned());
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    for file in &options.ca_files {
        for certificate in read_certificates(file)? {
            roots.add(certificate.clone()).map_err(|e| Error::input(reading(file), e))?;
            trusted.push(certificate);
        }
    }
    let failed = |e: &dyn std::error::Error| Error::input("setting up TLS", e.to_string());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let usual = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let trusted = trusted.iter().map(|certificate| Digest::of(certificate)).collect();
    let verifier = Verifier { usual: usual.build().map_err(|e| failed(&e))?, trusted };
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|e| failed(&e))?;
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    let Some((certificate, key)) = &options.certificate else { return Ok(builder.with_no_client_auth()) };
    let chain = read_certificates(certificate)?;
    let key_bytes = file::read(key, file::TEXT_CAP).map_err(|e| Error::input(reading(key), e))?;
    let key_der = PrivateKeyDer::from_pem_slice(&key_bytes).map_err(|e| {
        Error::input(reading(key), e).hint("--key-file takes a PEM file with an unencrypted private key")
    })?;
    let using = || format!("using {} with {}", certificate.display(), key.display());
    builder.with_client_auth_cert(chain, key_der).map_err(|e| Error::input(using(), e))
}

fn reading(path: &Path) -> String {
    format!("reading {}", path.display())
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let text = file::read(path, file::TEXT_CAP).map_err(|e| Error::input(reading(path), e))?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|e| Error::input(reading(path), e.to_string()))?;
    if certificates.is_empty() {
        return Err(Error::input(reading(path), "there is no certificate in it")
            .hint("it must be PEM: -----BEGIN CERTIFICATE-----"));
    }
    Ok(certificates)
}

/// The usual rules, and one exception: `openssl req -x509`, the way that private registries mostly get their
/// certificate, makes a CA of it, and a CA is not taken for a server by the usual rules. Where that very certificate
/// is trusted, the server that proves to have its key is taken, if name and dates are right.
#[derive(Debug)]
struct Verifier {
    usual: Arc<WebPkiServerVerifier>,
    /// Digests of the certificates that are trusted.
    trusted: BTreeSet<Digest>,
}

/// Whether the one thing wrong with a certificate, its name not looked at yet, is that it is a CA's.
pub(super) fn is_ca_as_server(error: &rustls::Error) -> bool {
    let rustls::Error::InvalidCertificate(CertificateError::Other(other)) = error else { return false };
    // The error's type is that of a crate below; this is the whole of its text.
    other.0.to_string() == "CaUsedAsEndEntity"
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.usual.verify_server_cert(certificate, intermediates, name, ocsp, now) {
            Err(error) if is_ca_as_server(&error) && self.trusted.contains(&Digest::of(certificate)) => {
                verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.usual.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.usual.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// As `openssl req -x509` makes it, for r.example; from 2026-11-24 to 2036-11-21.
    const SELF_SIGNED: &str = "-----BEGIN CERTIFICATE-----
MIIBkzCCATmgAwIBAgIUXk0NGp9psc05cUIZi/SOyWi5JF8wCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJci5leGFtcGxlMB4XDTI2MTEyNDAyNTM1NVoXDTM2MTEyMTAy
NTM1NVowFDESMBAGA1UEAwwJci5leGFtcGxlMFkwEwYHKoZIzj0CAQYIKoZIzj0D
AQcDQgAEvucofPx6ZUPU6HJcoybgM/r2inrHIf7EyYL8bQjEcrhFcOhxzmzNZMX3
dsk4Z6XlJIIS9a9WJfjPX1fT81xnKqNpMGcwHQYDVR0OBBYEFEu/yxeWdcGK8k4O
luMPOc7rh6HGMB8GA1UdIwQYMBaAFEu/yxeWdcGK8k4OluMPOc7rh6HGMA8GA1Ud
EwEB/wQFMAMBAf8wFAYDVR0RBA0wC4IJci5leGFtcGxlMAoGCCqGSM49BAMCA0gA
MEUCIEx0mWHUD89jhV+7B/G0OYz8/04SDcSc8ORD7IImU7qAAiEAjaKBBzvrbV2H
0PgWbB9AQFpG4NI14L8p6nv6XTVxAu0=
-----END CERTIFICATE-----";
    const WITHIN: u64 = 1_800_000_000;
    const AFTER: u64 = 2_200_000_000;

    #[test]
    fn a_self_signed_certificate_is_taken_where_it_is_trusted_and_right() {
        let certificate = CertificateDer::from_pem_slice(SELF_SIGNED.as_bytes()).expect("a certificate");
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).expect("a root");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let usual = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
        let mut verifier = Verifier { usual: usual.expect("a verifier"), trusted: BTreeSet::new() };
        let verify = |verifier: &Verifier, name: &'static str, at: u64| {
            let name = ServerName::try_from(name).expect("a name");
            let at = UnixTime::since_unix_epoch(Duration::from_secs(at));
            verifier.verify_server_cert(&certificate, &[], &name, &[], at)
        };
        assert!(is_ca_as_server(&verify(&verifier, "r.example", WITHIN).expect_err("a stranger")));
        verifier.trusted.insert(Digest::of(&certificate));
        verify(&verifier, "r.example", WITHIN).expect("a server");
        let name = verify(&verifier, "other.example", WITHIN).expect_err("another name");
        assert!(name.to_string().contains("not valid for name"), "{name}");
        let date = verify(&verifier, "r.example", AFTER).expect_err("another date");
        assert!(date.to_string().contains("expired"), "{date}");
    }
}
