//! Rights, asked of the cluster itself (`SelfSubjectAccessReview`, authorization.k8s.io/v1).

use serde::Deserialize;
use serde_json::json;

use super::Cluster;
use crate::error::Result;

/// Something that somebody may be allowed to do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Access {
    /// `create`, `patch` and so on; `*` for all.
    pub verb: String,
    /// API group; empty for the core's.
    pub group: String,
    /// Resource, such as `deployments`; `*` for all.
    pub resource: String,
    /// Namespace; none for what is in none, or for all of them.
    pub namespace: Option<String>,
}

impl std::fmt::Display for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let dot = if self.group.is_empty() { "" } else { "." };
        write!(f, "{} {}{dot}{}", self.verb, self.resource, self.group)?;
        match &self.namespace {
            Some(namespace) => write!(f, " in namespace {namespace}"),
            None => write!(f, " in the cluster"),
        }
    }
}

#[derive(Deserialize)]
struct Review {
    status: Status,
}

#[derive(Deserialize)]
struct Status {
    allowed: bool,
}

impl Cluster {
    /// Whether we are allowed to.
    ///
    /// # Errors
    /// When the cluster can't be asked.
    pub async fn allows(&self, access: &Access) -> Result<bool> {
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {
                "verb": access.verb, "group": access.group, "resource": access.resource,
                "namespace": access.namespace.as_deref().unwrap_or_default(),
            }},
        });
        let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        let doing = "asking the cluster for our rights";
        let review: Review = self.ask(doing, http::Method::POST, path, Some(&review)).await?;
        Ok(review.status.allowed)
    }
}
