//! `airlock audit`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;

use bundler::audit::{Closure, Looked, Verdict};
use bundler::receipt;
use bundler::{Error, Result};

use super::{Kube, Printer, Trusted, keys, mapping};

/// Arguments of `audit`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    trusted: Trusted,
    /// Look at the pods of these namespaces, not of those that the bundle names.
    #[arg(short, long, value_delimiter = ',')]
    namespace: Vec<String>,
    /// Look at every pod of the cluster; its own ones, in kube-system, are foreign to any bundle.
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,
    /// The site's registry, to say which names do not lead there; that of the newest receipt otherwise.
    #[arg(long, value_name = "REGISTRY[/PREFIX]")]
    registry: Option<String>,
    /// The source's host was left out of the repositories' names.
    #[arg(long, requires = "registry")]
    strip_host: bool,
    /// Every repository is directly below the registry.
    #[arg(long, requires = "registry")]
    flat: bool,
    /// Public key (PEM) of the site: only a receipt that it signed says where the registry is.
    #[arg(long = "site-key", value_name = "FILE", conflicts_with = "registry")]
    site_keys: Vec<PathBuf>,
    #[command(flatten)]
    kube: Kube,
}

pub async fn run(args: &Args, printer: &Printer) -> Result<()> {
    let bundle = args.trusted.open(printer)?;
    let closure = Closure::of(&bundle)?;
    for namespace in &args.namespace {
        bundler::name::namespace(namespace).map_err(|e| Error::input("reading --namespace", e))?;
    }
    let named = args.registry.as_deref().map(|at| mapping(at, args.strip_host, args.flat)).transpose()?;
    let site_keys = keys::public(&args.site_keys)?;
    let cluster = args.kube.connect().await?;
    let manifest = bundle.manifest();
    let namespaces: Vec<String> = if args.all_namespaces {
        cluster.namespaces().await?
    } else if args.namespace.is_empty() {
        let of = |chart: &bundler::format::Chart| {
            chart.namespace.clone().unwrap_or_else(|| cluster.namespace().into())
        };
        manifest.charts.iter().map(of).collect::<BTreeSet<_>>().into_iter().collect()
    } else {
        args.namespace.clone()
    };
    if namespaces.is_empty() {
        return Err(Error::input("choosing what to look at", "the bundle names no release")
            .hint("say --namespace, or --all-namespaces"));
    }
    let mut mapping = named;
    for namespace in namespaces.iter().filter(|_| !args.all_namespaces) {
        if mapping.is_none()
            && let Ok(receipts) = receipt::receipts(&cluster, namespace, &site_keys).await
            && let Some(last) = receipts.iter().find(|r| r.receipt.bundle.name == manifest.name)
        {
            mapping = Some(last.receipt.registry.mapping()?);
        }
    }
    let audit = bundler::audit::audit(&cluster, &closure, &namespaces, mapping.as_ref()).await?;
    let count = |verdict| audit.with(verdict).count();
    let (foreign, unknown) = (count(Verdict::Foreign), count(Verdict::Unknown));
    let value = serde_json::json!({
        "bundle": {"name": manifest.name, "version": manifest.version, "serial": manifest.serial, "signed_by": bundle.signer()},
        "namespaces": namespaces, "containers": audit.containers, "clean": foreign == 0,
        "signed": count(Verdict::Signed), "foreign": foreign, "unknown": unknown,
    });
    printer.result(&value, || {
        let mut text = String::new();
        audit.with(Verdict::Foreign).for_each(|looked| line("foreign", looked, &mut text));
        audit.with(Verdict::Unknown).for_each(|looked| line("unknown", looked, &mut text));
        audit.with(Verdict::Signed).filter(|l| l.why.is_some()).for_each(|l| line("signed", l, &mut text));
        let _ = writeln!(
            text,
            "{} containers in {}: {} as signed in {} {}, {foreign} foreign, {unknown} unknown",
            audit.containers.len(),
            namespaces.join(", "),
            count(Verdict::Signed),
            manifest.name,
            manifest.version
        );
        text
    })?;
    if foreign == 0 {
        return Ok(());
    }
    Err(Error::trust("comparing what runs with the bundle", format!("{foreign} containers run something else"))
        .hint("foreign is what no image of this bundle is: was it installed by somebody else, or from another version?"))
}

fn line(verdict: &str, looked: &Looked, text: &mut String) {
    let Looked { namespace, pod, container, image, image_id, why, .. } = looked;
    let id = if image_id.is_empty() { String::new() } else { format!(" is {image_id}") };
    let why = why.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
    let _ = writeln!(text, "{verdict}  {namespace}/{pod} {container}  {image}{id}{why}");
}
