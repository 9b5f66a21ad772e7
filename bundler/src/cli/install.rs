//! `airlock install`, and what helm calls while it applies.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bundler::cluster::Cluster;
use bundler::format::Chart;
use bundler::helm::{Patience, Stop};
use bundler::install::role::roles;
use bundler::install::{Install, Installed, Site, Target};
use bundler::receipt::{self, Receipt, Registry};
use bundler::sign::SigningKey;
use bundler::verify::VerifiedBundle;
use bundler::{Error, Result};

use super::keys::read_private;
use super::push::summary;
use super::{AtSite, Kube, Network, Printer, Trusted, Waiting, preflight, render};

/// Arguments of `install`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    trusted: Trusted,
    /// Print the rewritten manifests; ask no cluster, push and apply nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Check cluster, rights, nodes and registry, say what would change, and stop there.
    #[arg(long, conflicts_with_all = ["dry_run", "skip_preflight"])]
    preflight: bool,
    /// With what would change, show every line of it.
    #[arg(long, conflicts_with = "skip_preflight")]
    diff: bool,
    /// Print the rights that the install needs, as Roles for `kubectl apply`, and stop there.
    #[arg(long, conflicts_with_all = ["dry_run", "preflight", "skip_preflight"])]
    print_role: bool,
    /// Leave those checks out.
    #[arg(long)]
    skip_preflight: bool,
    /// Before anything is installed, have every node pull an image of the bundle, by a pod that runs nothing.
    #[arg(long, conflicts_with = "dry_run")]
    prove_pull: bool,
    /// The registry has the images already.
    #[arg(long)]
    no_push: bool,
    #[command(flatten)]
    waiting: Waiting,
    /// Roll a failed upgrade back, and remove a failed first install; implies --wait.
    #[arg(long)]
    atomic: bool,
    /// The site's key, which signs the receipt; made by `airlock keys generate`.
    #[arg(long, value_name = "FILE", env = "AIRLOCK_SITE_KEY")]
    site_key: Option<PathBuf>,
    /// File with the site key's password; AIRLOCK_PASSWORD, COSIGN_PASSWORD or a prompt otherwise.
    #[arg(long, value_name = "FILE", requires = "site_key")]
    password_file: Option<PathBuf>,
    /// Write the receipt here too, its signature beside it.
    #[arg(long, value_name = "FILE")]
    receipt: Option<PathBuf>,
    /// Install a bundle that is older than the one that was installed last.
    #[arg(long)]
    allow_downgrade: bool,
    #[command(flatten)]
    releases: Releases,
    #[command(flatten)]
    kube: Kube,
    #[command(flatten)]
    network: Network,
}

/// Which releases of a bundle, how they are rendered, and for which registry; `install` and `render` share it.
#[derive(clap::Args)]
pub struct Releases {
    #[command(flatten)]
    pub at_site: AtSite,
    /// A Secret with the login for that registry: added to `imagePullSecrets` of every pod spec. It must be in the
    /// namespaces already.
    #[arg(long, value_name = "NAME")]
    pub pull_secret: Option<String>,
    /// Only this release of the bundle; several are possible.
    #[arg(long = "release", value_name = "RELEASE")]
    pub releases: Vec<String>,
    /// The old spelling of `--release`: a release's name, or its chart's.
    #[arg(long, value_name = "NAME", hide = true, conflicts_with = "releases")]
    pub chart: Option<String>,
    /// A values file. Its release is named in front if the bundle has several.
    #[arg(long, value_name = "[RELEASE:]FILE")]
    pub values: Vec<String>,
    /// A single value, as for helm. Its release is named in front if the bundle has several.
    #[arg(long, value_name = "[RELEASE:]KEY=VALUE")]
    pub set: Vec<String>,
    /// Install into this namespace, not into those that the bundle names.
    #[arg(short, long)]
    pub namespace: Option<String>,
    /// Do not check values against the charts' values.schema.json. A schema that needs an address is never asked.
    #[arg(long)]
    pub skip_schema_validation: bool,
    /// The helm to run; the bundle's own or the one on PATH otherwise. The bundle's own is not run unless its signature
    /// was checked.
    #[arg(long, value_name = "PATH", env = "AIRLOCK_HELM")]
    pub helm: Option<PathBuf>,
}

impl Releases {
    /// What the site adds to the bundle; `context` is of the kubeconfig.
    pub fn site(&self, bundle: &VerifiedBundle, context: Option<&str>, printer: &Printer) -> Result<Site> {
        let charts = &bundle.manifest().charts;
        let releases: Vec<&str> = charts.iter().map(|c| c.release.as_str()).collect();
        let values = by_release("--values", &self.values, values_file, &releases)?;
        for path in values.values().flatten() {
            // Not left to helm, which would fetch a URL by ways of its own.
            bundler::file::open(path.as_ref())
                .map_err(|e| Error::input(format!("reading values file {path}"), e))?;
        }
        for chart in
            charts.iter().filter(|chart| !chart.set.is_empty() && values.contains_key(&chart.release))
        {
            printer.note(&format!(
                "release {}: what the bundle sets by itself ({}) comes after --values; --set comes after both",
                chart.release,
                chart.set.join(", ")
            ));
        }
        Ok(Site {
            releases: self.chosen(charts)?,
            values: values
                .into_iter()
                .map(|(release, files)| (release, files.into_iter().map(PathBuf::from).collect()))
                .collect(),
            set: by_release("--set", &self.set, single_value, &releases)?,
            namespace: self.namespace.clone(),
            kube_context: context.map(Into::into),
            skip_schema_validation: self.skip_schema_validation,
        })
    }

    /// Names of the chosen releases; none if all are meant.
    fn chosen(&self, charts: &[Chart]) -> Result<Vec<String>> {
        let Some(name) = self.chart.as_ref().filter(|_| !charts.is_empty()) else {
            return Ok(self.releases.clone());
        };
        let named = charts.iter().filter(|chart| *name == chart.name || *name == chart.release);
        let chosen: Vec<_> = named.map(|chart| chart.release.clone()).collect();
        // That there are none is said later, whatever is named.
        if chosen.is_empty() && !charts.is_empty() {
            let known: Vec<_> = charts.iter().map(|chart| &chart.release).collect();
            return Err(bundler::name::unknown("reading --release", "release", name, &known));
        }
        Ok(chosen)
    }

    /// Where its images are rewritten to.
    pub fn target(&self) -> Target {
        Target {
            registry: self.at_site.registry.clone(),
            strip_host: self.at_site.strip_host,
            flat: self.at_site.flat,
            pull_secret: self.pull_secret.clone(),
        }
    }
}

/// Arguments of `post-render`.
#[derive(clap::Args)]
pub struct PostRenderArgs {
    /// What `install` wrote for this.
    pub job: PathBuf,
}

pub async fn run(args: &Args, printer: &Printer) -> Result<()> {
    let releases = &args.releases;
    let mapping = releases.at_site.mapping()?;
    let bundle = Arc::new(args.trusted.open(printer)?);
    let site = releases.site(&bundle, args.kube.kube_context.as_deref(), printer)?;
    // Asked for before anything is done: it may be a prompt.
    let site_key = args.site_key.as_deref().filter(|_| !args.dry_run);
    let site_key = site_key.map(|path| read_private(path, args.password_file.as_deref())).transpose()?;
    let mut install = Install::prepare(&bundle, &site, releases.target(), releases.helm.as_deref())?;
    if args.dry_run {
        let mut rendered = install.render(|_| vec![]).await?;
        render::place(&install, &mut rendered, &[], printer).await?;
        return render::print(&[], &rendered, printer);
    }
    let (client, cluster) = (args.network.client()?, args.kube.connect().await?);
    install.settle(cluster.namespace());
    let rendered = if args.skip_preflight {
        install.render(|_| vec![]).await?
    } else {
        let (mut found, rendered) = install.preflight(&cluster).await?;
        if args.print_role {
            let roles = roles(&found.rights);
            return printer.document(&roles, [&*format!("{roles:#}\n")]);
        }
        install.check_registry(&client, &mapping, !args.no_push, &mut found).await;
        if args.preflight {
            printer.result(&found, || preflight::text(&found, args.diff))?;
            return found.passed().and_then(|()| install.check_hooks(&rendered));
        }
        preflight::say(printer, &found, args.diff);
        found.passed()?;
        rendered
    };
    install.check_hooks(&rendered)?;
    if !args.allow_downgrade {
        refuse_downgrade(&install, &bundle, &cluster, site_key.as_ref()).await?;
    }
    let pushed = if args.no_push {
        None
    } else {
        let progress = printer.progress();
        Some(bundler::push::push(&bundle, &client, &mapping, &progress).await?)
    };
    let proofs = if args.prove_pull { install.prove_pull(&cluster, &mapping).await? } else { vec![] };
    let patience = Patience {
        wait: args.waiting.wait || args.atomic,
        timeout: args.waiting.timeout.clone(),
        atomic: args.atomic,
        ..Patience::default()
    };
    let observer = printer.observer();
    let mut installed = Vec::new();
    // Up to the receipt.
    let mut stop = Stop::listen();
    let ended = install.apply(&cluster, &rendered, &patience, &*observer, &mut installed, &mut stop).await;
    if installed.is_empty() && ended.is_err() {
        return ended;
    }
    let receipt = Receipt::new(
        bundle.manifest(),
        bundle.bundle().manifest_bytes(),
        bundle.signer(),
        Registry {
            strip_host: releases.at_site.strip_host,
            flat: releases.at_site.flat,
            target: releases.at_site.registry.trim_end_matches('/').into(),
        },
        cluster.id().await.unwrap_or_default(),
        installed.clone(),
    );
    let signed = receipt.sign(site_key.as_ref())?;
    let written = args.receipt.as_deref().map_or(Ok(()), |path| signed.write(path));
    if let Err(error) = signed.keep(&cluster, &receipt).await {
        printer.alarm(&format!("what is installed is, but its receipt is not kept in the cluster: {error}"));
    }
    // Of what was installed before something failed there is a receipt, too.
    ended.and(written)?;
    let value = serde_json::json!({
        "pushed": pushed, "pulls": proofs, "releases": installed,
        "rewritten": rendered.iter().map(|r| (r.release.clone(), r.rewritten)).collect::<BTreeMap<_, _>>(),
        "receipt": receipt, "receipt_signed_by": site_key.as_ref().map(|key| key.public_key().key_id()),
    });
    printer.result(&value, || {
        let mut text = pushed.map(|p| summary(&releases.at_site.registry, &p)).unwrap_or_default();
        for proof in &proofs {
            let _ = writeln!(text, "node {} pulled {}", proof.node, proof.image);
        }
        for (done, rendered) in installed.iter().zip(&rendered) {
            let Installed { release, namespace, revision, .. } = done;
            let count = rendered.rewritten;
            let _ = writeln!(
                text,
                "installed {release} in {namespace}, revision {revision} ({count} references rewritten)"
            );
        }
        let _ = match &site_key {
            Some(key) => writeln!(text, "receipt signed by key {}", key.public_key().key_id()),
            None => writeln!(text, "receipt kept, unsigned (--site-key signs it)"),
        };
        text
    })
}

/// Compares with the newest receipts in the namespaces that are installed into.
async fn refuse_downgrade(
    install: &Install<'_>,
    bundle: &VerifiedBundle,
    cluster: &Cluster,
    site_key: Option<&SigningKey>,
) -> Result<()> {
    let keys: Vec<_> = site_key.iter().map(|key| key.public_key()).collect();
    for namespace in install.namespaces() {
        let receipts = receipt::receipts(cluster, namespace, &keys).await?;
        receipt::refuse_older(bundle.manifest(), &receipts)?;
    }
    Ok(())
}

/// Release that an option's text names in front, with the value for it; none if the text names no release.
type Named<'a> = Option<(&'a str, &'a str)>;

/// Splits `RELEASE:KEY=VALUE`. A colon of the value's own is not one of a release.
fn single_value<'a>(text: &'a str, _: &[&str]) -> Named<'a> {
    let key = text.split('=').next().unwrap_or_default();
    key.contains(':').then(|| text.split_once(':')).flatten()
}

/// Splits `RELEASE:FILE`, or `RELEASE=FILE` as it was spelled once. A file that has such a name is a file.
fn values_file<'a>(text: &'a str, releases: &[&str]) -> Named<'a> {
    let (release, file) = text.split_once([':', '='])?;
    (releases.contains(&release) || !Path::new(text).exists()).then_some((release, file))
}

/// Sorts the texts of an option by the releases that they name; a text without a name is for the only release.
fn by_release(
    flag: &str,
    texts: &[String],
    split: for<'a> fn(&'a str, &[&str]) -> Named<'a>,
    releases: &[&str],
) -> Result<BTreeMap<String, Vec<String>>> {
    let mut sorted: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for text in texts {
        let reading = || format!("reading {flag} {text}");
        let (release, value) = match (split(text, releases), releases) {
            (Some((release, value)), _) if releases.contains(&release) => (release, value),
            (Some((release, _)), _) => {
                return Err(bundler::name::unknown(reading(), "release", release, releases));
            }
            (None, [only]) => (*only, text.as_str()),
            (None, _) => {
                return Err(Error::input(reading(), "it does not say which release it is for")
                    .hint(format!("write RELEASE:{text}, with one of: {}", releases.join(", "))));
            }
        };
        sorted.entry(release.into()).or_default().push(value.into());
    }
    Ok(sorted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_go_to_the_release_they_name() {
        let texts = ["web=a.yaml", "db:b.yaml", "web:c=d.yaml"].map(String::from);
        let sorted = by_release("--values", &texts, values_file, &["web", "db"]).expect("sorted");
        assert_eq!(sorted["web"], ["a.yaml", "c=d.yaml"]);
        assert_eq!(sorted["db"], ["b.yaml"]);
        let texts = ["a.b=c:d", "web:e=f:g", "web:h:i=j"].map(String::from);
        let only = by_release("--set", &texts, single_value, &["web"]).expect("sorted");
        assert_eq!(only["web"], ["a.b=c:d", "e=f:g", "h:i=j"]);
        let error =
            by_release("--set", &["a=b".into()], single_value, &["web", "db"]).expect_err("ambiguous");
        assert!(error.hint_text().is_some_and(|hint| hint.contains("web, db")));
    }

    #[test]
    fn an_unknown_release_is_an_error() {
        for (flag, text, split) in [
            ("--set", "wbe:a=b", single_value as for<'a> fn(&'a str, &[&str]) -> Named<'a>),
            ("--values", "wbe:missing.yaml", values_file),
            ("--values", "wbe=missing.yaml", values_file),
        ] {
            for releases in [&["web"][..], &["db", "web"]] {
                let error = by_release(flag, &[text.into()], split, releases).expect_err(text);
                assert!(error.to_string().contains("there is no release \"wbe\""), "{error}");
                assert!(
                    error.hint_text().is_some_and(|hint| hint.contains("did you mean \"web\"?")),
                    "{error}"
                );
            }
        }
    }
}
