//! `airlock serve`.

use std::path::PathBuf;
use std::sync::Arc;

use bundler::serve::Server;
use bundler::{Error, Result};
use tokio::signal::unix::{SignalKind, signal};

use super::{Printer, Trusted};

/// Arguments of `serve`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    trusted: Trusted,
    /// Where to listen. Others reach it only if this is not 127.0.0.1.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:5000")]
    listen: String,
    /// Certificate chain (PEM), to serve over TLS.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Private key (PEM) of the certificate.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

pub async fn run(args: &Args, printer: &Printer) -> Result<()> {
    let bundle = Arc::new(args.trusted.open(printer)?);
    let tls = args.tls_cert.as_deref().zip(args.tls_key.as_deref());
    let scheme = if tls.is_some() { "https" } else { "http" };
    let server = Server::listen(Arc::clone(&bundle), &args.listen, tls).await?;
    let address = server.address()?;
    let manifest = bundle.manifest();
    let value = serde_json::json!({
        "address": address, "scheme": scheme, "name": manifest.name, "version": manifest.version,
    });
    printer.result(&value, || {
        let (name, version) = (&manifest.name, &manifest.version);
        format!("serving {name} {version} at {scheme}://{address}/v2/ (read-only; stop with Ctrl-C)\n")
    })?;
    let waiting = |e| Error::input("waiting for signals", e);
    let mut interrupt = signal(SignalKind::interrupt()).map_err(waiting)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(waiting)?;
    server
        .run(async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        })
        .await;
    Ok(())
}
