//! Which of the policies a cluster understands.

use crate::cluster::Cluster;
use crate::error::{Error, Result};

/// What a cluster has of `admissionregistration.k8s.io`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Api {
    /// Version of `MutatingAdmissionPolicy` to write; none leaves that half out.
    pub mutating: Option<&'static str>,
    /// The cluster was asked, so what it has is switched on.
    pub asked: bool,
}

/// Group of the policies' API.
const GROUP: &str = "admissionregistration.k8s.io";
/// What to do where a cluster has no `MutatingAdmissionPolicy`.
const INSTEAD: &str = "--validate-only writes the half that refuses images from outside; that pods of operators find their \
                       images all the same is then the nodes' part: airlock mirrors";

impl Api {
    /// What Kubernetes has in a version, `1.34` or `v1.34.4`: `MutatingAdmissionPolicy` from 1.36, its beta from 1.34 and its
    /// alpha from 1.32 if they are switched on; `ValidatingAdmissionPolicy` from 1.30.
    ///
    /// # Errors
    /// When it is no version, or that version has not what is wanted.
    pub fn of_version(text: &str, validate_only: bool) -> Result<Self> {
        let reading =
            || Error::input("reading --kube-version", format!("{text:?} is no version such as 1.34"));
        let mut numbers = text.trim_start_matches('v').split('.');
        let mut number = || numbers.next()?.trim_end_matches('+').parse::<u32>().ok();
        let (major, minor) = number().zip(number()).ok_or_else(reading)?;
        if (major, minor) < (1, 30) {
            return Err(missing("ValidatingAdmissionPolicy (v1)", text)
                .hint("it is there from Kubernetes 1.30; before, let nodes ask the site's registry alone: airlock mirrors"));
        }
        let mutating = match (major, minor) {
            _ if validate_only => None,
            (1, ..32) => return Err(missing("MutatingAdmissionPolicy", text).hint(INSTEAD)),
            (1, 32..34) => Some("v1alpha1"),
            (1, 34..36) => Some("v1beta1"),
            _ => Some("v1"),
        };
        Ok(Self { mutating, asked: false })
    }

    /// Asks the cluster.
    ///
    /// # Errors
    /// When it does not answer, or has not what is wanted.
    pub async fn of_cluster(cluster: &Cluster, validate_only: bool) -> Result<Self> {
        let (mut mutating, mut validating) = (vec![], false);
        for (version, resources) in cluster.group(GROUP).await? {
            let has = |name: &str| resources.iter().any(|resource| resource == name);
            validating |= version == "v1" && has("validatingadmissionpolicies");
            if has("mutatingadmissionpolicies") {
                mutating.push(version);
            }
        }
        Self::choose(&mutating, validating, validate_only)
    }

    /// Chooses among what a cluster says it has: versions of the group with `MutatingAdmissionPolicy`, and whether it has
    /// `ValidatingAdmissionPolicy` in v1.
    ///
    /// # Errors
    /// When it has not what is wanted.
    pub fn choose(mutating: &[String], validating: bool, validate_only: bool) -> Result<Self> {
        if !validating {
            return Err(missing("ValidatingAdmissionPolicy (v1)", "the cluster")
                .hint("it is there from Kubernetes 1.30; before, let nodes ask the site's registry alone: airlock mirrors"));
        }
        let best = ["v1", "v1beta1", "v1alpha1"].into_iter().find(|v| mutating.iter().any(|m| m == v));
        match best {
            _ if validate_only => Ok(Self { mutating: None, asked: true }),
            None => Err(missing("MutatingAdmissionPolicy", "the cluster").hint(format!(
                "in Kubernetes 1.34 and 1.35 it is switched on by --feature-gates=MutatingAdmissionPolicy=true and \
                 --runtime-config=admissionregistration.k8s.io/v1beta1=true of the API server; {INSTEAD}"
            ))),
            best => Ok(Self { mutating: best, asked: true }),
        }
    }

    /// What to know of that choice.
    pub(super) fn notes(self) -> Vec<String> {
        match self.mutating {
            Some(version @ ("v1beta1" | "v1alpha1")) if !self.asked => vec![format!(
                "{version} is off by default: the API server needs --feature-gates=MutatingAdmissionPolicy=true and \
                 --runtime-config=admissionregistration.k8s.io/{version}=true"
            )],
            _ => vec![],
        }
    }
}

fn missing(what: &str, cluster: &str) -> Error {
    Error::cluster("writing admission policies", format!("{cluster} has no {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_have_what_they_have() {
        for (text, mutating) in [
            ("1.32", Some("v1alpha1")),
            ("v1.34.4", Some("v1beta1")),
            ("1.35+", Some("v1beta1")),
            ("1.36.0-rc.1", Some("v1")),
            ("2.0", Some("v1")),
        ] {
            assert_eq!(Api::of_version(text, false).expect(text).mutating, mutating);
            assert_eq!(Api::of_version(text, true).expect(text).mutating, None);
        }
        for (text, validate_only, said) in [
            ("1.31", false, "MutatingAdmissionPolicy"),
            ("1.29", true, "ValidatingAdmissionPolicy"),
            ("x", false, "no version"),
            ("1", false, "no version"),
        ] {
            let error = Api::of_version(text, validate_only).expect_err(text);
            assert!(error.to_string().contains(said), "{error}");
        }
        Api::of_version("1.31", true).expect("the validating half");
    }

    #[test]
    fn a_cluster_is_taken_at_its_word() {
        let has = |versions: &[&str]| versions.iter().map(ToString::to_string).collect::<Vec<_>>();
        let choose = |versions: &[&str], validating, only| Api::choose(&has(versions), validating, only);
        assert_eq!(choose(&["v1alpha1", "v1beta1"], true, false).expect("beta").mutating, Some("v1beta1"));
        assert_eq!(choose(&["v1beta1", "v1"], true, false).expect("v1").mutating, Some("v1"));
        assert_eq!(choose(&["v1"], true, true).expect("half").mutating, None);
        for (versions, validating) in [(&[][..], true), (&["v1"], false)] {
            let error = choose(versions, validating, false).expect_err("nothing");
            assert_eq!(error.kind(), crate::Kind::Cluster);
            assert!(error.hint_text().is_some());
        }
    }
}
