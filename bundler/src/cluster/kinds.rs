//! The kinds of objects that a cluster knows (its discovery documents).

use std::collections::BTreeMap;

use futures_util::StreamExt as _;
use serde::Deserialize;

use super::Cluster;
use crate::error::Result;

/// Groups that are asked for at a time.
const PARALLEL: usize = 8;

/// How objects of a kind are reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Its name in paths and rights, such as `deployments`.
    pub name: String,
    /// Whether its objects are in namespaces.
    pub namespaced: bool,
}

/// Every kind, by API version (`apps/v1`) and name (`Deployment`).
#[derive(Clone, Debug, Default)]
pub struct Kinds {
    known: BTreeMap<(String, String), Resource>,
    /// Group versions whose own server does not answer, such as a metrics API that is down.
    pub silent: Vec<String>,
}

#[derive(Deserialize)]
struct Versions {
    versions: Vec<String>,
}

#[derive(Deserialize)]
struct Groups {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    versions: Vec<GroupVersion>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct GroupVersion {
    group_version: String,
    version: String,
}

#[derive(Deserialize)]
struct Resources {
    #[serde(default)]
    resources: Vec<Found>,
}

#[derive(Deserialize)]
struct Found {
    name: String,
    kind: String,
    namespaced: bool,
}

impl Kinds {
    /// A kind, if the cluster has it.
    #[must_use]
    pub fn get(&self, api_version: &str, kind: &str) -> Option<&Resource> {
        self.known.get(&(api_version.to_owned(), kind.to_owned()))
    }

    /// Adds one that a chart brings along.
    pub fn insert(&mut self, api_version: &str, kind: &str, resource: Resource) {
        self.known.entry((api_version.into(), kind.into())).or_insert(resource);
    }

    /// What helm calls API versions: `apps/v1` and `apps/v1/Deployment`.
    #[must_use]
    pub fn api_versions(&self) -> Vec<String> {
        let mut all: Vec<String> = Vec::new();
        for (version, kind) in self.known.keys() {
            if !all.contains(version) {
                all.push(version.clone());
            }
            all.push(format!("{version}/{kind}"));
        }
        all
    }
}

impl Cluster {
    /// The versions that it has of an API group, each with the names of its resources.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn group(&self, name: &str) -> Result<Vec<(String, Vec<String>)>> {
        let group: Option<Group> = self.find(&format!("/apis/{name}")).await?;
        let mut versions = vec![];
        for GroupVersion { group_version, version } in group.into_iter().flat_map(|group| group.versions) {
            let found: Resources = self.get(&format!("/apis/{group_version}")).await?;
            versions.push((version, found.resources.into_iter().map(|resource| resource.name).collect()));
        }
        Ok(versions)
    }

    /// Every kind that it knows. A group whose server does not answer is left out, and named.
    ///
    /// # Errors
    /// When the API server itself can't be asked.
    pub async fn kinds(&self) -> Result<Kinds> {
        let core: Versions = self.get("/api").await?;
        let groups: Groups = self.get("/apis").await?;
        let core = core.versions.into_iter().map(|v| (format!("/api/{v}"), v));
        let others = groups.groups.into_iter().flat_map(|group| group.versions);
        let others = others.map(|v| (format!("/apis/{}", v.group_version), v.group_version));
        let all: Vec<(String, String)> = core.chain(others).collect();
        let answers = futures_util::stream::iter(all)
            .map(async |(path, version)| (self.get::<Resources>(&path).await, version))
            .buffered(PARALLEL);
        let mut answers = std::pin::pin!(answers);
        let mut kinds = Kinds::default();
        while let Some((answer, version)) = answers.next().await {
            match answer {
                Ok(resources) => kinds.take(&version, resources),
                Err(error) => {
                    tracing::debug!(%version, %error, "an API group does not answer");
                    kinds.silent.push(version);
                }
            }
        }
        Ok(kinds)
    }
}

impl Kinds {
    fn take(&mut self, version: &str, resources: Resources) {
        // Names with a slash are parts of a resource, such as `deployments/scale`.
        for found in resources.resources.into_iter().filter(|found| !found.name.contains('/')) {
            let resource = Resource { name: found.name, namespaced: found.namespaced };
            self.insert(version, &found.kind, resource);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_found_by_version_and_name() {
        let mut kinds = Kinds::default();
        let answer = r#"{"resources": [
            {"name": "deployments", "kind": "Deployment", "namespaced": true},
            {"name": "deployments/scale", "kind": "Scale", "namespaced": true}]}"#;
        kinds.take("apps/v1", serde_json::from_str(answer).expect("resources"));
        assert_eq!(kinds.get("apps/v1", "Deployment").map(|r| &*r.name), Some("deployments"));
        assert_eq!(kinds.get("apps/v1", "Scale"), None);
        assert_eq!(kinds.get("apps/v1beta1", "Deployment"), None);
        assert_eq!(kinds.api_versions(), ["apps/v1", "apps/v1/Deployment"]);
    }
}
