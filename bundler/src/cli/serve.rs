//! `airlock serve`.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use bundler::serve::authority::{self, Issued};
use bundler::serve::{Advertised, Server};
use bundler::{Error, Result};
use tokio::signal::unix::{SignalKind, signal};

use super::{Printer, Trusted};

/// Arguments of `serve`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    trusted: Trusted,
    /// More bundles, such as a newer one; where several have the same tag, the last one's counts.
    #[arg(value_name = "BUNDLE")]
    more: Vec<PathBuf>,
    /// Where to listen. Others reach it only if this is not 127.0.0.1.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:5000")]
    listen: String,
    /// Certificate chain (PEM), to serve over TLS.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Private key (PEM) of the certificate.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Serve over TLS with a certificate by an authority that is made in this directory, and kept there: DIR/ca.pem is what
    /// nodes trust.
    #[arg(long, value_name = "DIR", conflicts_with = "tls_cert", requires = "advertise")]
    tls_self_signed: Option<PathBuf>,
    /// Name or address by which others reach this machine; several are possible, the first is shown.
    #[arg(long, value_name = "HOST[:PORT]", value_delimiter = ',')]
    advertise: Vec<Advertised>,
}

pub async fn run(args: &Args, printer: &Printer) -> Result<()> {
    let mut bundles = vec![Arc::new(args.trusted.open(printer)?)];
    for path in &args.more {
        bundles.push(Arc::new(args.trusted.open_at(path, printer)?));
    }
    let issued =
        args.tls_self_signed.as_deref().map(|dir| authority::issue(dir, &names(args))).transpose()?;
    let tls = match &issued {
        Some(issued) => Some((issued.certificate.as_path(), issued.key.as_path())),
        None => args.tls_cert.as_deref().zip(args.tls_key.as_deref()),
    };
    let scheme = if tls.is_some() { "https" } else { "http" };
    let server = Server::listen(bundles.clone(), &args.listen, tls).await?;
    let address = server.address()?;
    args.advertise.iter().try_for_each(|advertised| server.check(advertised))?;
    let advertised: Vec<_> = args.advertise.iter().map(|a| a.with_port(address.port())).collect();
    let served: Vec<_> = bundles.iter().map(|bundle| bundle.manifest()).collect();
    let listed: Vec<_> =
        served.iter().map(|m| serde_json::json!({"name": m.name, "version": m.version})).collect();
    let (ca, fingerprint) = issued.iter().map(|i| (&i.ca, &i.fingerprint)).unzip::<_, _, Vec<_>, Vec<_>>();
    let value = serde_json::json!({
        "address": address, "scheme": scheme, "name": served[0].name, "version": served[0].version, "bundles": listed,
        "advertised": advertised, "ca": ca.first(), "ca_sha256": fingerprint.first(),
    });
    printer.result(&value, || {
        let names: Vec<_> = served.iter().map(|m| format!("{} {}", m.name, m.version)).collect();
        let shown = advertised.first().cloned().unwrap_or_else(|| address.to_string());
        let mut text =
            format!("serving {} at {scheme}://{shown}/v2/ (read-only; stop with Ctrl-C)\n", names.join(", "));
        if let Some(Issued { ca, fingerprint, new_authority, .. }) = &issued {
            let made = if *new_authority { "made just now" } else { "as before" };
            let _ = writeln!(text, "certificate authority, {made}: {}, SHA-256 {fingerprint}", ca.display());
        }
        text
    })?;
    for advertised in &args.advertise {
        if let Some(why) = advertised.unreachable(address.port()).await {
            printer
                .warn(&format!("{} can't be reached from here: {why}", advertised.with_port(address.port())));
        }
    }
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

/// Names and addresses that a certificate of our own has: those that are advertised, the one listened on, and this machine's.
fn names(args: &Args) -> Vec<String> {
    let mut names: Vec<String> = args.advertise.iter().map(|advertised| advertised.host.clone()).collect();
    let listened = args.listen.parse::<SocketAddr>().ok().map(|address| address.ip());
    names.extend(listened.filter(|ip| !ip.is_unspecified()).map(|ip| ip.to_string()));
    names.extend(["localhost", "127.0.0.1", "::1"].map(String::from));
    let mut seen = std::collections::BTreeSet::new();
    names.retain(|name| seen.insert(name.clone()));
    names
}
