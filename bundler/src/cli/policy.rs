//! `airlock policy`.

use bundler::Result;
use bundler::policy::{self, Action, Api, Settings};

use super::{AtSite, Kube, Printer, Trusted};

/// Arguments of `policy`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    trusted: Trusted,
    #[command(flatten)]
    at_site: AtSite,
    /// Warn whoever makes a pod with an image from outside, and note it in the audit log; the default.
    #[arg(long, conflicts_with = "enforce")]
    audit: bool,
    /// Refuse pods with an image from outside.
    #[arg(long)]
    enforce: bool,
    /// Label of the namespaces in which the policies hold.
    #[arg(long, value_name = "KEY=VALUE", default_value = policy::SELECTOR)]
    selector: String,
    /// Leave out the half that rewrites images: for clusters that can't, beside `airlock mirrors`.
    #[arg(long)]
    validate_only: bool,
    /// Write for this version of Kubernetes, and ask no cluster.
    #[arg(long, value_name = "VERSION", conflicts_with = "kube_context")]
    kube_version: Option<String>,
    #[command(flatten)]
    kube: Kube,
}

pub async fn run(args: &Args, printer: &Printer) -> Result<()> {
    let (mapping, selector) = (args.at_site.mapping()?, args.selector.parse()?);
    let bundle = args.trusted.open(printer)?;
    let api = match &args.kube_version {
        Some(version) => Api::of_version(version, args.validate_only)?,
        None => {
            let hint = "set KUBECONFIG or --kube-context; with --kube-version 1.34 no cluster is asked";
            let cluster = args.kube.connect().await.map_err(|e| e.hint(hint))?;
            Api::of_cluster(&cluster, args.validate_only).await?
        }
    };
    let action = if args.enforce { Action::Enforce } else { Action::Audit };
    let policies = policy::policies(&bundle, &Settings { mapping, api, action, selector })?;
    printer.document(&policies, [&*policies.manifests])?;
    policies.notes.iter().for_each(|note| printer.note(&format!("- {note}")));
    Ok(())
}
