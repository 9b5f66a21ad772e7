//! `airlock serve`.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bundler::interrupt::{self, Unbroken};
use bundler::serve::authority::{self, Issued};
use bundler::serve::{Advertised, Logins, Registry, Server, TlsFiles};
use bundler::verify::VerifiedBundle;
use bundler::{Error, Result};

use super::{Printer, Signed};

/// Arguments of `serve`.
#[derive(clap::Args)]
pub struct Args {
    /// Bundles, served read-only; where several have the same tag, the last one's counts.
    #[arg(value_name = "BUNDLE", required_unless_present = "store")]
    bundles: Vec<PathBuf>,
    #[command(flatten)]
    signed: Signed,
    /// Serve what is pushed here instead: this directory, an OCI image layout, is made if it is not there.
    #[arg(long, value_name = "DIR", conflicts_with = "bundles")]
    store: Option<PathBuf>,
    /// Users and passwords, as `htpasswd -B` makes them: only who logs in is answered.
    #[arg(long, value_name = "FILE")]
    htpasswd: Option<PathBuf>,
    /// Let everybody pull; only who changes something logs in.
    #[arg(long, requires = "htpasswd")]
    anonymous_pull: bool,
    /// Let everybody who reaches the port change what is in the store.
    #[arg(long, requires = "store", conflicts_with = "htpasswd")]
    anonymous_push: bool,
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
    /// Authorities (PEM) of clients' certificates: only who has one by them is answered.
    #[arg(long, value_name = "FILE")]
    tls_client_ca: Option<PathBuf>,
    /// Name or address by which others reach this machine; several are possible, the first is shown.
    #[arg(long, value_name = "HOST[:PORT]", value_delimiter = ',')]
    advertise: Vec<Advertised>,
}

pub async fn run(args: &Args, printer: &Printer) -> Result<()> {
    if args.bundles.len() > 1 && !args.signed.signatures.is_empty() {
        let why = "it is not said which of the bundles it is for";
        return Err(Error::input("reading --signature", why)
            .hint("put it into the bundle with `airlock sign --signature`, or serve that one alone"));
    }
    let open = |path: &PathBuf| args.signed.open(path, printer).map(Arc::new);
    let bundles: Vec<_> = args.bundles.iter().map(open).collect::<Result<_>>()?;
    let logins = args.htpasswd.as_deref().map(|file| Logins::read(file, args.anonymous_pull)).transpose()?;
    let issued =
        args.tls_self_signed.as_deref().map(|dir| authority::issue(dir, &names(args))).transpose()?;
    let tls = tls(args, issued.as_ref())?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    let server = Server::listen(&args.listen, tls.as_ref()).await?;
    let address = server.address()?;
    args.advertise.iter().try_for_each(|advertised| server.check(advertised))?;
    let advertised: Vec<_> = args.advertise.iter().map(|a| a.with_port(address.port())).collect();
    check_access(args, address, printer)?;
    let registry = match &args.store {
        Some(store) => Registry::of_store(store)?,
        None => Registry::of_bundles(bundles.clone())?,
    };
    let what = Served::of(args.store.as_deref(), &bundles);
    let (ca, fingerprint) = issued.iter().map(|i| (&i.ca, &i.fingerprint)).unzip::<_, _, Vec<_>, Vec<_>>();
    let mut value = what.value();
    for (key, more) in [
        ("address", serde_json::json!(address)),
        ("scheme", scheme.into()),
        ("advertised", advertised.clone().into()),
        ("ca", serde_json::json!(ca.first())),
        ("ca_sha256", serde_json::json!(fingerprint.first())),
    ] {
        value[key] = more;
    }
    printer.result(&value, || {
        let shown = advertised.first().cloned().unwrap_or_else(|| address.to_string());
        let (what, how) = what.text();
        let mut text = format!("serving {what} at {scheme}://{shown}/v2/ ({how}; stop with Ctrl-C)\n");
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
    // Its end is a signal: no failure.
    let _unbroken = Unbroken::begin();
    let stop = async {
        let signal = interrupt::wait().await;
        printer.note(&format!("stopped by {}; requests that run are finished first", signal.name()));
    };
    server.run(registry.with_logins(logins), printer.access_log(), stop).await;
    Ok(())
}

/// The files of TLS, if it is spoken.
fn tls(args: &Args, issued: Option<&Issued>) -> Result<Option<TlsFiles>> {
    let pair = match issued {
        Some(issued) => Some((&issued.certificate, &issued.key)),
        None => args.tls_cert.as_ref().zip(args.tls_key.as_ref()),
    };
    match (pair, &args.tls_client_ca) {
        (Some((certificate, key)), client_ca) => {
            let (certificate, key, client_ca) = (certificate.clone(), key.clone(), client_ca.clone());
            Ok(Some(TlsFiles { certificate, key, client_ca }))
        }
        (None, None) => Ok(None),
        (None, Some(_)) => {
            Err(Error::input("reading --tls-client-ca", "clients show certificates over TLS only")
                .hint("add --tls-cert and --tls-key, or --tls-self-signed"))
        }
    }
}

/// Checks that nobody is let in whom nobody thought of.
fn check_access(args: &Args, address: SocketAddr, printer: &Printer) -> Result<()> {
    let is_local = address.ip().is_loopback();
    let is_open = args.htpasswd.is_none() && args.tls_client_ca.is_none() && !args.anonymous_push;
    if args.store.is_some() && is_open && !is_local {
        let why = "everybody who reaches it could change what nodes run";
        return Err(Error::input(format!("serving a store at {address}"), why).hint(
            "add --htpasswd FILE (made by `htpasswd -B`), or --tls-client-ca FILE; or --anonymous-push, if that is meant",
        ));
    }
    let is_plain = args.tls_cert.is_none() && args.tls_self_signed.is_none();
    if args.htpasswd.is_some() && is_plain && !is_local {
        printer.alarm("passwords go over the network unencrypted: --tls-self-signed DIR makes a certificate");
    }
    Ok(())
}

/// What is served, for a person and for a program.
enum Served<'a> {
    Bundles(Vec<(&'a str, &'a str)>),
    Store(&'a Path),
}

impl<'a> Served<'a> {
    fn of(store: Option<&'a Path>, bundles: &'a [Arc<VerifiedBundle>]) -> Self {
        let named = |bundle: &'a Arc<VerifiedBundle>| {
            let manifest = bundle.manifest();
            (manifest.name.as_str(), manifest.version.as_str())
        };
        store.map_or_else(|| Self::Bundles(bundles.iter().map(named).collect()), Self::Store)
    }

    fn value(&self) -> serde_json::Value {
        match self {
            Self::Store(path) => serde_json::json!({"store": path}),
            Self::Bundles(all) => {
                let named = |(name, version): &(_, _)| serde_json::json!({"name": name, "version": version});
                let mut value = all.first().map(named).unwrap_or_default();
                value["bundles"] = all.iter().map(named).collect();
                value
            }
        }
    }

    /// What it is called, and what can be done with it.
    fn text(&self) -> (String, &'static str) {
        match self {
            Self::Store(path) => (format!("store {}", path.display()), "pull and push"),
            Self::Bundles(all) => {
                let names: Vec<_> = all.iter().map(|(name, version)| format!("{name} {version}")).collect();
                (names.join(", "), "read-only")
            }
        }
    }
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
