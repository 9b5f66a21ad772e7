//! Applying: helm, release after release, while the cluster is asked what is not ready. What was done and what was not is
//! said when it ends early.

use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::objects::{Object, objects};
use super::waiting::{Trouble, troubles};
use super::{Install, Rendered, Unpacked};
use crate::cluster::{Cluster, Presence};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::helm::{Patience, Revision, Stop};
use crate::interrupt;

/// How often the cluster is asked what is not ready.
const POLL: Duration = Duration::from_secs(2);

/// Told how an installation goes.
pub trait Observer: Send + Sync {
    /// A release's turn has come.
    fn begin(&self, release: &str);
    /// What is not ready now. Called again and again.
    fn waiting(&self, release: &str, troubles: &[Trouble]);
    /// The release is installed, or has failed.
    fn end(&self, release: &str);
}

/// A release that was installed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installed {
    /// The chart.
    pub chart: String,
    /// SHA-256 of what `helm get manifest` prints for it.
    pub manifest: Digest,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub release: String,
    /// Helm's revision.
    pub revision: u64,
    /// The chart's version.
    pub version: String,
}

impl Install<'_> {
    /// Installs every chart, in the bundle's order, and adds each to `installed` when it is, also if a later one fails.
    ///
    /// # Errors
    /// When the post-renderer refuses, or helm fails: the text says which releases are installed, and how the failed one
    /// was left.
    pub async fn apply(
        &self,
        cluster: &Cluster,
        rendered: &[Rendered],
        patience: &Patience,
        observer: &dyn Observer,
        installed: &mut Vec<Installed>,
        stop: &mut Stop,
    ) -> Result<()> {
        for (chart, rendered) in self.charts.iter().zip(rendered) {
            if let Some(signal) = interrupt::asked() {
                let stopped = Error::cluster("installing", format!("stopped by {}", signal.name()));
                return Err(self.failed(&stopped, chart, installed, &[], patience).await);
            }
            let name = &chart.chart.release;
            let objects = objects(&rendered.manifests).0;
            let last = Mutex::new(Vec::new());
            observer.begin(name);
            let watching = self.watch(cluster, chart, &objects, observer, &last);
            let context = self.site.kube_context.as_deref();
            let release = chart.release();
            let namespace = chart.namespace.as_deref().unwrap_or(cluster.namespace());
            let is_there = matches!(cluster.presence(namespace).await, Ok(Presence::There));
            let patience = &Patience { make_namespace: !is_there, ..patience.clone() };
            let outcome = tokio::select! {
                outcome = self.helm.upgrade(&release, context, &self.renderer, patience, stop) => outcome,
                () = watching => Ok(()),
            };
            observer.end(name);
            let done = match outcome {
                Ok(()) => self.installed(cluster, chart).await,
                Err(error) => Err(error),
            };
            match done {
                Ok(done) => installed.push(done),
                Err(error) => {
                    let last = last.into_inner().unwrap_or_else(PoisonError::into_inner);
                    return Err(self.failed(&error, chart, installed, &last, patience).await);
                }
            }
        }
        Ok(())
    }

    /// Never ends.
    async fn watch(
        &self,
        cluster: &Cluster,
        chart: &Unpacked<'_>,
        objects: &[Object],
        observer: &dyn Observer,
        last: &Mutex<Vec<Trouble>>,
    ) {
        let namespace = chart.namespace.as_deref().unwrap_or(cluster.namespace());
        loop {
            tokio::time::sleep(POLL).await;
            match troubles(cluster, objects, namespace).await {
                Ok(found) => {
                    observer.waiting(&chart.chart.release, &found);
                    // What fails now is the reason; what is on its way, perhaps back, is none.
                    let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                    if last.is_empty() || found.iter().any(|trouble| trouble.failing) {
                        *last = found;
                    }
                }
                // Helm will say that the cluster has gone.
                Err(error) => tracing::debug!(%error, "asking what is not ready"),
            }
        }
    }

    async fn installed(&self, cluster: &Cluster, chart: &Unpacked<'_>) -> Result<Installed> {
        let place = self.place(chart);
        let known = self.helm.last(place).await?;
        let known = known.ok_or_else(|| {
            Error::cluster(format!("installing release {}", place.name), "helm does not know it afterwards")
        })?;
        Ok(Installed {
            chart: chart.chart.name.clone(),
            manifest: Digest::of(&self.helm.manifest(place).await?),
            namespace: chart.namespace.as_deref().unwrap_or(cluster.namespace()).to_owned(),
            release: place.name.to_owned(),
            revision: known.revision,
            version: chart.chart.version.clone(),
        })
    }

    /// The failure, the cluster's reasons for it, and the state of every release.
    async fn failed(
        &self,
        error: &Error,
        chart: &Unpacked<'_>,
        installed: &[Installed],
        troubles: &[Trouble],
        patience: &Patience,
    ) -> Error {
        let mut text = error.to_string();
        for trouble in troubles {
            let _ = write!(text, "\n  {trouble}");
        }
        for done in installed {
            let _ = write!(text, "\n  release {}: installed, revision {}", done.release, done.revision);
        }
        let place = self.place(chart);
        let known = self.helm.last(place).await;
        let (state, hint) = left_as(&known, place.name, chart.namespace.as_deref(), patience);
        let _ = write!(text, "\n  release {}: {state}", place.name);
        let begun = installed.len() + 1;
        for later in self.charts.iter().skip(begun) {
            let _ = write!(text, "\n  release {}: not begun", later.chart.release);
        }
        let is_pull = troubles.iter().any(|trouble| is_about_a_pull(&trouble.why));
        let hint = match (error.hint_text(), is_pull) {
            (Some(first), _) => format!("{first}; {hint}"),
            (None, true) => format!(
                "nodes must reach {} by this name, and trust it: --prove-pull shows it before anything is installed; {hint}",
                self.rewriting.target.registry
            ),
            (None, false) => hint,
        };
        Error::new(error.kind(), "installing the bundle", text).hint(hint)
    }
}

fn is_about_a_pull(why: &str) -> bool {
    ["ImagePull", "ErrImage", "InvalidImageName"].iter().any(|reason| why.contains(reason))
}

/// How a failed release was left, and what to do.
fn left_as(
    known: &Result<Option<Revision>>,
    release: &str,
    namespace: Option<&str>,
    patience: &Patience,
) -> (String, String) {
    let named = namespace.map(|namespace| format!(" -n {namespace}")).unwrap_or_default();
    let again = "repair the cause and run the same command again".to_owned();
    match known {
        Err(error) => (
            format!("not known, for the cluster can't be asked ({error})"),
            format!(
                "when the cluster is back, run the same command again, or look with `helm status {release}{named}`"
            ),
        ),
        Ok(None) if patience.atomic => ("removed again (--atomic)".into(), again),
        Ok(None) => ("nothing of it is installed".into(), again),
        Ok(Some(known)) if known.status == "deployed" && patience.atomic => (
            format!(
                "rolled back (--atomic): revision {} runs, with the manifests from before",
                known.revision
            ),
            again,
        ),
        Ok(Some(known)) if known.status == "deployed" => {
            (format!("as it was: revision {} runs", known.revision), again)
        }
        Ok(Some(known)) if known.is_pending() => (
            format!("{} at revision {}: helm was stopped in the middle of it", known.status, known.revision),
            unstick(release, &named, known),
        ),
        Ok(Some(known)) => (
            format!(
                "{} at revision {}: its objects are applied, at least in part, and are left as they are",
                known.status, known.revision
            ),
            format!(
                "{again}, or {}; --atomic does that by itself",
                if known.revision > 1 {
                    format!("go back with `airlock rollback {release}{named}`")
                } else {
                    format!("remove it with `airlock uninstall {release}{named}`")
                }
            ),
        ),
    }
}

/// What to do about a release that helm left in the middle; `named` is its namespace as an option.
pub(super) fn unstick(release: &str, named: &str, known: &Revision) -> String {
    if known.revision > 1 {
        format!("if no other helm is at work on it: `airlock rollback {release}{named}`, then install again")
    } else {
        format!("if no other helm is at work on it: `airlock uninstall {release}{named}`, then install again")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(status: &str, version: u64) -> Result<Option<Revision>> {
        let text = serde_json::json!({"revision": version, "status": status});
        Ok(Some(serde_json::from_value(text).expect("a release")))
    }

    #[test]
    fn how_a_release_was_left_is_said() {
        let plain = Patience::default();
        let atomic = Patience { atomic: true, ..Patience::default() };
        for (known, patience, state, hint) in [
            (known("failed", 1), &plain, "in part", "airlock uninstall web -n shop"),
            (known("failed", 2), &plain, "in part", "airlock rollback web -n shop"),
            (known("deployed", 3), &atomic, "rolled back (--atomic): revision 3", "again"),
            (Ok(None), &atomic, "removed again", "again"),
            (Ok(None), &plain, "nothing of it", "again"),
            (known("pending-upgrade", 2), &plain, "stopped in the middle", "airlock rollback web -n shop"),
            (known("pending-install", 1), &plain, "stopped in the middle", "airlock uninstall web -n shop"),
            (Err(Error::cluster("asking", "refused")), &plain, "can't be asked", "is back"),
        ] {
            let (said, do_it) = left_as(&known, "web", Some("shop"), patience);
            assert!(said.contains(state), "{said}");
            assert!(do_it.contains(hint), "{do_it}");
        }
    }
}
