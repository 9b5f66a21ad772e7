//! `airlock uninstall`.

use std::fmt::Write as _;
use std::path::PathBuf;

use bundler::cluster::{Cluster, Metadata};
use bundler::helm::{Patience, Place, Stop};
use bundler::install::find_helm;
use bundler::verify::VerifiedBundle;
use bundler::{Error, Result};
use serde::{Deserialize, Serialize};

use super::{Kube, Printer, Signed, Waiting};

/// Arguments of `uninstall`.
#[derive(clap::Args)]
pub struct Args {
    /// The release.
    #[arg(required_unless_present = "all")]
    release: Option<String>,
    /// Every release of the bundle that --bundle names, the last first. The bundle here is the old spelling.
    #[arg(long, value_name = "BUNDLE", num_args = 0..=1, conflicts_with = "release")]
    all: Option<Option<PathBuf>>,
    /// The bundle: of --all, and to take helm from where there is none here.
    #[arg(long, value_name = "FILE")]
    bundle: Option<PathBuf>,
    #[command(flatten)]
    signed: Signed,
    /// Namespace of the release; with --all, instead of those that the bundle names.
    #[arg(short, long)]
    namespace: Option<String>,
    #[command(flatten)]
    waiting: Waiting,
    #[command(flatten)]
    kube: Kube,
    /// The helm to run; the bundle's own or the one on PATH otherwise.
    #[arg(long, value_name = "PATH", env = "AIRLOCK_HELM")]
    helm: Option<PathBuf>,
}

/// A release that is gone, or was not there.
#[derive(Serialize)]
struct Removed {
    release: String,
    namespace: String,
    /// Whether it was there.
    removed: bool,
    /// What helm says it kept.
    kept: Vec<String>,
}

#[derive(Deserialize)]
struct Object {
    metadata: Metadata,
}

pub async fn run(args: &Args, printer: &Printer) -> Result<()> {
    super::check_place(args.release.as_deref().unwrap_or("all"), args.namespace.as_deref())?;
    let bundle = bundle(args)?.map(|path| args.signed.open(path, printer)).transpose()?;
    let directory = bundler::file::temporary()?;
    let helm = find_helm(args.helm.as_deref(), bundle.as_ref(), directory.path())?;
    let releases = releases(args, bundle.as_ref());
    let cluster = args.kube.connect().await?;
    let patience =
        Patience { wait: args.waiting.wait, timeout: args.waiting.timeout.clone(), ..Patience::default() };
    let mut stop = Stop::listen();
    let mut all: Vec<Removed> = Vec::new();
    for (release, namespace) in releases {
        if let Some(signal) = bundler::interrupt::asked() {
            let doing = format!("uninstalling release {release}");
            return Err(partly(Error::cluster(doing, format!("stopped by {}", signal.name())), &all));
        }
        let namespace = namespace.unwrap_or_else(|| cluster.namespace().into());
        let context = args.kube.kube_context.as_deref();
        let place = Place { name: &release, namespace: Some(&namespace), context };
        let removed = helm.last(place).await?.is_some();
        if !removed && args.all.is_none() {
            return Err(Error::input(
                format!("uninstalling release {release}"),
                format!("there is no such release in namespace {namespace}"),
            )
            .hint("`helm list --all-namespaces` shows the releases; name its namespace with --namespace"));
        }
        let said = match removed {
            true => helm.uninstall(place, &patience, &mut stop).await.map_err(|e| partly(e, &all))?,
            false => String::new(),
        };
        all.push(Removed { release, namespace, removed, kept: kept(&said) });
    }
    let stays = stays(&cluster, &all).await;
    printer.result(&serde_json::json!({"releases": all, "stays": stays}), || {
        let mut text = String::new();
        for Removed { release, namespace, removed, kept } in &all {
            let what = if *removed { "is uninstalled" } else { "was not there" };
            let _ = writeln!(text, "{release} in {namespace} {what}");
            for kept in kept {
                let _ = writeln!(text, "  stays, by the chart's wish: {kept}");
            }
        }
        for stays in &stays {
            let _ = writeln!(text, "stays: {stays}");
        }
        text
    })
}

/// The bundle that is named, once.
fn bundle(args: &Args) -> Result<Option<&PathBuf>> {
    match args.all.iter().flatten().chain(&args.bundle).collect::<Vec<_>>()[..] {
        [path] => Ok(Some(path)),
        [] if args.all.is_none() => Ok(None),
        _ => Err(Error::input("uninstalling all releases of a bundle", "no single bundle is named")
            .hint("name it once, with --bundle FILE")),
    }
}

/// The releases to remove, with the namespaces that are known.
fn releases(args: &Args, bundle: Option<&VerifiedBundle>) -> Vec<(String, Option<String>)> {
    if let Some(release) = &args.release {
        return vec![(release.clone(), args.namespace.clone())];
    }
    let charts = bundle.into_iter().flat_map(|bundle| bundle.manifest().charts.iter().rev());
    charts.map(|c| (c.release.clone(), args.namespace.clone().or_else(|| c.namespace.clone()))).collect()
}

fn partly(error: Error, done: &[Removed]) -> Error {
    let gone: Vec<&str> = done.iter().filter(|r| r.removed).map(|r| r.release.as_str()).collect();
    if gone.is_empty() { error } else { error.within(format!("{} uninstalled, then", gone.join(", "))) }
}

/// What helm lists after "These resources were kept due to the resource policy:".
fn kept(said: &str) -> Vec<String> {
    let lines = said.lines().skip_while(|line| !line.contains("kept due to the resource policy")).skip(1);
    lines.map(str::trim).take_while(|line| line.starts_with('[')).map(Into::into).collect()
}

/// What helm leaves behind: claims that stateful sets made, definitions, namespaces, receipts.
async fn stays(cluster: &Cluster, removed: &[Removed]) -> Vec<String> {
    let mut all = Vec::new();
    let mut namespaces: Vec<&str> =
        removed.iter().filter(|r| r.removed).map(|r| r.namespace.as_str()).collect();
    namespaces.sort_unstable();
    namespaces.dedup();
    for namespace in namespaces {
        let path = format!("/api/v1/namespaces/{namespace}/persistentvolumeclaims");
        match cluster.list::<Object>(&path, "").await {
            Ok(claims) => all.extend(claims.iter().map(|claim| {
                format!("PersistentVolumeClaim {namespace}/{} with its data", claim.metadata.name)
            })),
            Err(error) => {
                all.push(format!("PersistentVolumeClaims of {namespace}, which can't be listed ({error})"))
            }
        }
        all.push(format!("namespace {namespace}, with what else is in it and airlock's receipts"));
    }
    if !all.is_empty() {
        all.push("custom resource definitions of the charts' crds/, if they had any".into());
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_helm_kept_is_read() {
        let said = "These resources were kept due to the resource policy:\n[PersistentVolumeClaim] data\n\nrelease \"web\" uninstalled\n";
        assert_eq!(kept(said), ["[PersistentVolumeClaim] data"]);
        assert!(kept("release \"web\" uninstalled\n").is_empty());
    }
}
