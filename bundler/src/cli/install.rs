//! `airlock install`, and what helm calls while it applies.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::Arc;

use bundler::install::{Install, RenderJob, Site};
use bundler::{Error, Result};

use super::push::{mapping, summary};
use super::{Network, Printer, Trusted};

/// Most that helm may hand to the post-renderer, in bytes.
const MANIFESTS_CAP: u64 = 256 << 20;

/// Arguments of `install`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    trusted: Trusted,
    /// The site's registry, as the cluster's nodes reach it.
    #[arg(long, value_name = "REGISTRY[/PREFIX]")]
    registry: String,
    /// Leave the source's host out of the repositories' names; refused if two would collide.
    #[arg(long)]
    strip_host: bool,
    /// Print the rewritten manifests; push and apply nothing.
    #[arg(long)]
    dry_run: bool,
    /// The registry has the images already.
    #[arg(long)]
    no_push: bool,
    /// Only this chart, by its name or release.
    #[arg(long, value_name = "NAME")]
    chart: Option<String>,
    /// A values file; which release it is for, where there are several.
    #[arg(long, value_name = "[RELEASE=]FILE")]
    values: Vec<String>,
    /// A single value, as for helm; which release it is for, where there are several.
    #[arg(long, value_name = "[RELEASE:]KEY=VALUE")]
    set: Vec<String>,
    /// Install into this namespace, not into those that the bundle names.
    #[arg(short, long)]
    namespace: Option<String>,
    /// Context of the kubeconfig.
    #[arg(long, value_name = "NAME")]
    kube_context: Option<String>,
    /// The helm to run; the bundle's own or the one on PATH otherwise. The bundle's own is not run unless its signature
    /// was checked.
    #[arg(long, value_name = "PATH", env = "AIRLOCK_HELM")]
    helm: Option<PathBuf>,
    #[command(flatten)]
    network: Network,
}

/// Arguments of `post-render`.
#[derive(clap::Args)]
pub struct PostRenderArgs {
    /// What `install` wrote for this.
    job: PathBuf,
}

pub async fn run(args: &Args, printer: &Printer) -> Result<()> {
    let mapping = mapping(&args.registry, args.strip_host)?;
    let bundle = Arc::new(args.trusted.open(printer)?);
    let releases: Vec<&str> = bundle.manifest().charts.iter().map(|c| c.release.as_str()).collect();
    let site = Site {
        chart: args.chart.clone(),
        values: by_release("--values", &args.values, '=', &releases)?
            .into_iter()
            .map(|(release, files)| (release, files.into_iter().map(PathBuf::from).collect()))
            .collect(),
        set: by_release("--set", &args.set, ':', &releases)?,
        namespace: args.namespace.clone(),
        kube_context: args.kube_context.clone(),
    };
    let install = Install::prepare(&bundle, &site, &args.registry, args.strip_host, args.helm.as_deref())?;
    let rendered = install.render().await?;
    if args.dry_run {
        let value = serde_json::json!({"releases": rendered});
        return printer.document(&value, || rendered.iter().map(|r| r.manifests.as_str()).collect());
    }
    let pushed = if args.no_push {
        None
    } else {
        Some(bundler::push::push(&bundle, &args.network.client()?, &mapping, &printer.progress()).await?)
    };
    let airlock = std::env::current_exe().map_err(|e| Error::input("finding airlock's own program", e))?;
    install.apply(&airlock).await?;
    let value = serde_json::json!({
        "pushed": pushed,
        "releases": rendered.iter().map(|r| serde_json::json!({"release": r.release, "rewritten": r.rewritten})).collect::<Vec<_>>(),
    });
    printer.result(&value, || {
        let mut text = pushed.map(|p| summary(&args.registry, &p)).unwrap_or_default();
        for release in &rendered {
            let _ =
                writeln!(text, "installed {} ({} references rewritten)", release.release, release.rewritten);
        }
        text
    })
}

/// Sorts `RELEASE<mark>VALUE` by release; without a release it is for the only one.
fn by_release(
    flag: &str,
    texts: &[String],
    mark: char,
    releases: &[&str],
) -> Result<BTreeMap<String, Vec<String>>> {
    let mut sorted: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for text in texts {
        let named = text.split_once(mark).filter(|(release, _)| releases.contains(release));
        let (release, value) = match (named, releases) {
            (Some((release, value)), _) => (release, value),
            (None, [only]) => (*only, text.as_str()),
            (None, _) => {
                return Err(Error::input(
                    format!("reading {flag} {text}"),
                    "it does not say which release it is for",
                )
                .hint(format!("write RELEASE{mark}{text}, with one of: {}", releases.join(", "))));
            }
        };
        sorted.entry(release.into()).or_default().push(value.into());
    }
    Ok(sorted)
}

/// Manifests in on stdin, out on stdout; a refusal stops helm before it applies anything.
pub fn post_render(args: &PostRenderArgs) -> Result<()> {
    render(args).inspect_err(|error| bundler::install::leave_refusal(&args.job, error))
}

fn render(args: &PostRenderArgs) -> Result<()> {
    let reading = || format!("reading {}", args.job.display());
    let job = std::fs::read(&args.job).map_err(|e| Error::input(reading(), e))?;
    let job: RenderJob = serde_json::from_slice(&job).map_err(|e| Error::input(reading(), e))?;
    let mut manifests = String::new();
    let read = std::io::stdin().take(MANIFESTS_CAP).read_to_string(&mut manifests);
    read.map_err(|e| Error::input("reading manifests from stdin", e))?;
    if manifests.len() as u64 == MANIFESTS_CAP {
        return Err(Error::input(
            "reading manifests from stdin",
            format!("there are more than {MANIFESTS_CAP} bytes"),
        ));
    }
    let (text, _) = job.run(&manifests)?;
    use std::io::Write as _;
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(|e| Error::cluster("handing manifests back to helm", e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_go_to_the_release_they_name() {
        let texts = ["web=a.yaml", "db=b.yaml", "web=c=d.yaml"].map(String::from);
        let sorted = by_release("--values", &texts, '=', &["web", "db"]).expect("sorted");
        assert_eq!(sorted["web"], ["a.yaml", "c=d.yaml"]);
        assert_eq!(sorted["db"], ["b.yaml"]);
        let only = by_release("--set", &["a.b=c:d".into()], ':', &["web"]).expect("sorted");
        assert_eq!(only["web"], ["a.b=c:d"]);
        let error = by_release("--set", &["a=b".into()], ':', &["web", "db"]).expect_err("ambiguous");
        assert!(error.hint_text().is_some_and(|hint| hint.contains("web, db")));
    }
}
