//! `airlock render`: what `install` would apply, for GitOps, kustomize and kubectl; no cluster is asked.

use bundler::Result;
use bundler::install::Install;

use super::install::Releases;
use super::{Printer, Trusted};

/// Arguments of `render`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    trusted: Trusted,
    #[command(flatten)]
    releases: Releases,
    /// Definitions of custom resources in charts' `crds/` too, in front; helm itself applies them once and never again.
    #[arg(long)]
    include_crds: bool,
    /// Render for this version of Kubernetes; helm's own otherwise.
    #[arg(long, value_name = "VERSION")]
    kube_version: Option<String>,
    /// An API that the cluster has beside helm's list (`monitoring.coreos.com/v1`).
    #[arg(long = "api-version", value_name = "GROUP/VERSION")]
    api_versions: Vec<String>,
}

pub async fn run(args: &Args, printer: &Printer) -> Result<()> {
    args.releases.at_site.mapping()?;
    let bundle = args.trusted.open(printer)?;
    let site = args.releases.site(&bundle, None, printer)?;
    let install = Install::prepare(&bundle, &site, args.releases.target(), args.releases.helm.as_deref())?;
    let mut arguments = vec![];
    arguments.extend(args.include_crds.then(|| "--include-crds".to_owned()));
    arguments.extend(args.kube_version.iter().map(|version| format!("--kube-version={version}")));
    arguments.extend(args.api_versions.iter().map(|version| format!("--api-versions={version}")));
    let rendered = install.render(|_| arguments.clone()).await?;
    let value = serde_json::json!({"releases": rendered});
    printer.document(&value, rendered.iter().map(|r| r.manifests.as_str()))
}
