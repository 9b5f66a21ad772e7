//! TLS as the server speaks it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::Stream;
use crate::error::{Error, Result};
use crate::file;

/// Files that TLS is set up with, all PEM.
#[derive(Clone, Debug)]
pub struct Files {
    /// The certificate chain.
    pub certificate: PathBuf,
    /// Its private key, not encrypted.
    pub key: PathBuf,
    /// Authorities of clients' certificates; if there are any, whoever has none by them is refused.
    pub client_ca: Option<PathBuf>,
}

/// What TLS is spoken with.
#[derive(Clone)]
pub(super) struct Tls {
    acceptor: TlsAcceptor,
    pub(super) certificate: CertificateDer<'static>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// When they are no certificates and key, or don't belong together.
    pub(super) fn read(files: &Files) -> Result<Self> {
        let Files { certificate: cert, key, client_ca } = files;
        let chain = certificates(cert, "--tls-cert takes a PEM file with the certificate chain")?;
        let certificate = chain[0].clone();
        let key_der = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|e| {
            Error::input(reading(key), e).hint("--tls-key takes a PEM file with an unencrypted private key")
        })?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = match client_ca {
            None => WebPkiClientVerifier::no_client_auth(),
            Some(path) => {
                let failed = |e: &dyn std::error::Error| Error::input(reading(path), e.to_string());
                let mut roots = RootCertStore::empty();
                for ca in
                    certificates(path, "--tls-client-ca takes a PEM file with authorities' certificates")?
                {
                    roots.add(ca).map_err(|e| failed(&e))?;
                }
                let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
                builder.build().map_err(|e| failed(&e))?
            }
        };
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_client_cert_verifier(verifier).with_single_cert(chain, key_der))
            .map_err(|e| Error::input(format!("using {} with {}", cert.display(), key.display()), e))?;
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), certificate })
    }

    /// A connection, if the client speaks TLS, soon.
    pub(super) async fn accept(&self, stream: Stream, patience: Duration) -> Option<TlsStream<Stream>> {
        match tokio::time::timeout(patience, self.acceptor.accept(stream)).await {
            Ok(Ok(stream)) => Some(stream),
            Ok(Err(error)) => {
                tracing::debug!("a TLS handshake failed: {error}");
                None
            }
            Err(_) => None,
        }
    }
}

fn reading(path: &Path) -> String {
    format!("reading {}", path.display())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    file::read(path, file::TEXT_CAP).map_err(|e| Error::input(reading(path), e))
}

/// At least one.
fn certificates(path: &Path, hint: &str) -> Result<Vec<CertificateDer<'static>>> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    let all = all.map_err(|e| Error::input(reading(path), e).hint(hint))?;
    match all.is_empty() {
        true => Err(Error::input(reading(path), "there is no certificate in it").hint(hint)),
        false => Ok(all),
    }
}
