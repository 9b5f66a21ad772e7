//! `airlock render`: what `install` would apply, for GitOps, kustomize and kubectl; no cluster is asked.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use bundler::install::objects::{Object, objects};
use bundler::install::{Install, Rendered};
use bundler::{Error, Result};

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
    /// A Namespace object in front, for each namespace that a release names and no chart makes.
    #[arg(long)]
    create_namespace: bool,
    /// Write DIR/NAMESPACE/RELEASE.yaml for each release, instead of stdout; DIR/RELEASE.yaml where no namespace is named.
    /// Other files there stay.
    #[arg(long, value_name = "DIR")]
    output_dir: Option<PathBuf>,
    /// A kind of object that is in a namespace, where no chart of the bundle defines it (`Certificate.cert-manager.io`).
    #[arg(long = "namespaced-kind", value_name = "KIND.GROUP")]
    namespaced: Vec<String>,
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
    let mut rendered = install.render(|_| arguments.clone()).await?;
    place(&install, &mut rendered, &args.namespaced, printer).await?;
    let namespaces = if args.create_namespace { namespaces(&rendered) } else { vec![] };
    match &args.output_dir {
        Some(directory) => {
            let files = write(directory, &namespaces, &rendered)?;
            printer.result(&serde_json::json!({"files": files}), || files.join("\n") + "\n")
        }
        None => print(&namespaces, &rendered, printer),
    }
}

/// Writes the releases' namespaces into their objects, and names the kinds that this was not done for.
pub async fn place(
    install: &Install<'_>,
    rendered: &mut [Rendered],
    namespaced: &[String],
    printer: &Printer,
) -> Result<()> {
    let unknown = install.write_namespaces(rendered, namespaced).await?;
    if !unknown.is_empty() {
        let kinds = unknown.into_iter().collect::<Vec<_>>().join(", ");
        printer.warn(&format!(
            "no chart of the bundle defines these kinds, so their objects got no namespace: {kinds}; \
             `airlock render --namespaced-kind` names those that are in one"
        ));
    }
    Ok(())
}

/// Prints the manifests; as JSON, document by document too.
pub fn print(namespaces: &[(String, String)], rendered: &[Rendered], printer: &Printer) -> Result<()> {
    let documents: Vec<_> = rendered.iter().flat_map(documents).collect();
    let objects: Vec<&str> = namespaces.iter().map(|(_, text)| text.as_str()).collect();
    let value = serde_json::json!({"releases": rendered, "documents": documents, "namespaces": objects});
    printer.document(&value, objects.into_iter().chain(rendered.iter().map(|r| r.manifests.as_str())))
}

/// The documents of a release, with where they belong.
fn documents(rendered: &Rendered) -> Vec<serde_json::Value> {
    let Rendered { release, namespace, chart, version, manifests, .. } = rendered;
    let mut all = vec![];
    for text in bundler::yaml::documents(manifests) {
        let Some(Object { api_version, kind, name, .. }) = objects(text).0.into_iter().next() else {
            continue;
        };
        all.push(serde_json::json!({
            "release": release, "namespace": namespace, "chart": chart, "version": version,
            "apiVersion": api_version, "kind": kind, "name": name, "manifest": text,
        }));
    }
    all
}

/// A Namespace object for each namespace that a release names and none of the charts makes.
fn namespaces(rendered: &[Rendered]) -> Vec<(String, String)> {
    let mut made = BTreeSet::new();
    for release in rendered {
        let all = objects(&release.manifests).0.into_iter();
        made.extend(all.filter(|object| object.kind == "Namespace").map(|object| object.name));
    }
    let wanted: BTreeSet<&String> =
        rendered.iter().filter_map(|release| release.namespace.as_ref()).collect();
    let missing = wanted.into_iter().filter(|namespace| !made.contains(*namespace));
    let text = |name: &String| format!("---\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n");
    missing.map(|name| (name.clone(), text(name))).collect()
}

/// Writes a file for each release, and one for each Namespace object. Returns their paths.
fn write(directory: &Path, namespaces: &[(String, String)], rendered: &[Rendered]) -> Result<Vec<String>> {
    let below = |namespace: Option<&String>| namespace.map_or(directory.into(), |name| directory.join(name));
    // No release can be called so.
    let objects = namespaces.iter().map(|(name, text)| (below(Some(name)), "_namespace.yaml".into(), text));
    let releases = rendered.iter().map(|release| {
        (below(release.namespace.as_ref()), format!("{}.yaml", release.release), &release.manifests)
    });
    let mut files = vec![];
    for (directory, name, text) in objects.chain(releases) {
        let path = directory.join(name);
        let writing = |e| Error::unwritable(format!("writing {}", path.display()), e, "--output-dir");
        std::fs::create_dir_all(&directory).map_err(writing)?;
        bundler::file::replace(&path, text.as_bytes(), 0o644).map_err(writing)?;
        files.push(path.display().to_string());
    }
    Ok(files)
}
