//! `airlock receipts`.

use std::fmt::Write as _;
use std::path::PathBuf;

use bundler::receipt::{self, Action, Checked, Signed};
use bundler::{Error, Result};

use super::{Kube, Printer, keys};

/// Arguments of `receipts`.
#[derive(clap::Args)]
pub struct Args {
    /// A receipt in a file; those of the cluster otherwise.
    file: Option<PathBuf>,
    /// Public key (PEM) of the site: only receipts that it signed count.
    #[arg(long = "site-key", value_name = "FILE")]
    keys: Vec<PathBuf>,
    /// Receipts of this namespace; that of the context otherwise.
    #[arg(short, long, conflicts_with = "file")]
    namespace: Option<String>,
    /// Receipts of every namespace.
    #[arg(short = 'A', long, conflicts_with_all = ["namespace", "file"])]
    all_namespaces: bool,
    #[command(flatten)]
    kube: Kube,
}

pub async fn run(args: &Args, printer: &Printer) -> Result<()> {
    let keys = keys::public(&args.keys)?;
    if let Some(path) = &args.file {
        let checked = Signed::read(path)?.check(&keys).map_err(|e| e.within(path.display()))?;
        return printer.result(&checked, || text(&checked));
    }
    args.namespace
        .as_deref()
        .map_or(Ok(()), bundler::name::namespace)
        .map_err(|e| Error::input("reading --namespace", e))?;
    let cluster = args.kube.connect().await?;
    let namespaces = match &args.namespace {
        _ if args.all_namespaces => cluster.namespaces().await?,
        Some(namespace) => vec![namespace.clone()],
        None => vec![cluster.namespace().to_owned()],
    };
    let mut all: Vec<Checked> = Vec::new();
    for namespace in &namespaces {
        for found in receipt::receipts(&cluster, namespace, &keys).await? {
            // One that is kept in several namespaces is one.
            if !all.iter().any(|checked| checked.receipt == found.receipt) {
                all.push(found);
            }
        }
    }
    printer.result(&all, || all.iter().map(text).collect())
}

fn text(checked: &Checked) -> String {
    let Checked { receipt, signed_by, claims_key } = checked;
    let bundle = &receipt.bundle;
    let action = match receipt.action {
        Action::Install => "installed",
        Action::Rollback => "rolled back to",
    };
    let mut text = format!(
        "{} {action} {} {} (serial {}), {} images at {}\n",
        receipt.time,
        bundle.name,
        bundle.version,
        bundle.serial,
        receipt.images.len(),
        receipt.registry.target
    );
    for release in &receipt.releases {
        let _ = writeln!(
            text,
            "  {} in {}, revision {}, chart {} {}",
            release.release, release.namespace, release.revision, release.chart, release.version
        );
    }
    let _ = match (signed_by, claims_key) {
        (Some(id), _) => writeln!(text, "  signed by key {id}"),
        (None, Some(id)) => writeln!(text, "  says it is signed by key {id}; NOT checked: give --site-key"),
        (None, None) => writeln!(text, "  NOT signed"),
    };
    text
}
