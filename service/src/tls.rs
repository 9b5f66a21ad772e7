//! TLS to Redis: rustls with ring, from PEM that is given.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::fmt;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Content of the PEM files.
#[derive(Clone, PartialEq)]
pub struct Pem {
    /// Authorities to trust; none: Mozilla's.
    pub ca: Option<Vec<u8>>,
    /// Certificate chain to show, and its key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pem(***)")
    }
}

/// What a connection is made with.
pub fn client(pem: &Pem) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    match &pem.ca {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(ca) => {
            for certificate in certificates(ca, "REDIS_TLS_CA_FILE")? {
                roots.add(certificate).map_err(|e| format!("REDIS_TLS_CA_FILE: {e}"))?;
            }
        }
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots);
    let config = match &pem.identity {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let chain = certificates(chain, "REDIS_TLS_CERT_FILE")?;
            let key = PrivateKeyDer::from_pem_slice(key)
                .map_err(|_| "REDIS_TLS_KEY_FILE: it holds no unencrypted private key in PEM format")?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|e| format!("REDIS_TLS_CERT_FILE with REDIS_TLS_KEY_FILE: {e}"))?
        }
    };
    Ok(Arc::new(config))
}

fn certificates(pem: &[u8], name: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(format!("{name}: it holds no certificate in PEM format")),
    }
}

/// Speaks TLS over `stream` with a server whose certificate must be for `host`.
pub async fn connect(
    config: Arc<ClientConfig>,
    host: &str,
    stream: TcpStream,
) -> std::io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(host.to_owned()).map_err(std::io::Error::other)?;
    TlsConnector::from(config).connect(name, stream).await
}
