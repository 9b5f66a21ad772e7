//! `airlock rollback`.

use std::path::PathBuf;

use bundler::digest::Digest;
use bundler::helm::{Patience, Place, Stop};
use bundler::install::{Installed, find_helm};
use bundler::receipt;
use bundler::{Error, Result};

use super::keys::read_private;
use super::{Kube, Printer, Signed, Waiting};

/// Arguments of `rollback`.
#[derive(clap::Args)]
pub struct Args {
    /// The release.
    release: String,
    /// The revision to go back to; the one before otherwise.
    revision: Option<u64>,
    /// Namespace of the release; that of the context otherwise.
    #[arg(short, long)]
    namespace: Option<String>,
    #[command(flatten)]
    waiting: Waiting,
    /// The site's key, which signs the receipt.
    #[arg(long, value_name = "FILE", env = "AIRLOCK_SITE_KEY")]
    site_key: Option<PathBuf>,
    /// File with the site key's password.
    #[arg(long, value_name = "FILE", requires = "site_key")]
    password_file: Option<PathBuf>,
    #[command(flatten)]
    kube: Kube,
    /// A bundle to take helm from, where there is none here.
    #[arg(long, value_name = "FILE")]
    bundle: Option<PathBuf>,
    #[command(flatten)]
    signed: Signed,
    /// The helm to run; the bundle's own or the one on PATH otherwise.
    #[arg(long, value_name = "PATH", env = "AIRLOCK_HELM")]
    helm: Option<PathBuf>,
}

pub async fn run(args: &Args, printer: &Printer) -> Result<()> {
    super::check_place(&args.release, args.namespace.as_deref())?;
    let bundle = args.bundle.as_ref().map(|path| args.signed.open(path, printer)).transpose()?;
    // Before there is a directory: it may be a prompt, in which the process may exit.
    let site_key =
        args.site_key.as_deref().map(|path| read_private(path, args.password_file.as_deref())).transpose()?;
    let directory = bundler::file::temporary()?;
    let helm = find_helm(args.helm.as_deref(), bundle.as_ref(), directory.path())?;
    let cluster = args.kube.connect().await?;
    let namespace = args.namespace.as_deref().unwrap_or(cluster.namespace());
    let context = args.kube.kube_context.as_deref();
    let place = Place { name: &args.release, namespace: Some(namespace), context };
    let doing = || format!("rolling back release {}", args.release);
    let history = helm.history(place).await?.ok_or_else(|| {
        Error::input(doing(), format!("there is no such release in namespace {namespace}"))
            .hint("`helm list --all-namespaces` shows the releases; name its namespace with --namespace")
    })?;
    if let Some(wanted) = args.revision
        && !history.iter().any(|revision| revision.revision == wanted)
    {
        let has = history.iter().map(|r| format!("{} ({})", r.revision, r.status)).collect::<Vec<_>>();
        return Err(Error::input(doing(), format!("it has no revision {wanted}"))
            .hint(format!("it has: {}", has.join(", "))));
    }
    let patience =
        Patience { wait: args.waiting.wait, timeout: args.waiting.timeout.clone(), ..Patience::default() };
    let mut stop = Stop::listen();
    helm.rollback(place, args.revision, &patience, &mut stop).await?;
    let known =
        helm.last(place).await?.ok_or_else(|| Error::cluster(doing(), "helm does not know it afterwards"))?;
    let manifest = Digest::of(&helm.manifest(place).await?);
    // What the site's key is to vouch for, it has vouched for before.
    let keys: Vec<_> = site_key.iter().map(|key| key.public_key()).collect();
    let receipts = receipt::receipts(&cluster, namespace, &keys).await.unwrap_or_default();
    // A rolled-back release has the very manifests that some install left.
    let before = receipts.iter().find_map(|checked| {
        let was = checked.receipt.release(&args.release, namespace)?;
        (was.manifest == manifest).then_some((&checked.receipt, was))
    });
    let mut from = None;
    match before {
        Some((receipt, was)) => {
            let now = receipt.rolled_back(Installed { revision: known.revision, ..was.clone() });
            if let Err(error) = now.sign(site_key.as_ref())?.keep(&cluster, &now).await {
                printer.alarm(&format!("the release is rolled back, but no receipt of it is kept: {error}"));
            }
            from = Some(receipt.bundle.clone());
        }
        None => printer.warn(if keys.is_empty() {
            "no receipt in the namespace is of these manifests: airlock has not installed them, or its receipts are gone"
        } else {
            "no receipt in the namespace that the site's key has signed is of these manifests: airlock has not installed them, or \
             without that key, or its receipts are gone"
        }),
    }
    let value = serde_json::json!({
        "release": args.release, "namespace": namespace, "revision": known.revision, "manifest": manifest, "bundle": from,
    });
    printer.result(&value, || {
        let of = from.map(|b| format!(", as bundle {} {} left it", b.name, b.version)).unwrap_or_default();
        format!("{} in {namespace} is rolled back: revision {} runs{of}\n", args.release, known.revision)
    })
}
