//! What can be known before anything changes: the cluster and its version, our rights, the kinds it knows, its nodes, the
//! site's registry, and everything that will be different afterwards.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::StreamExt as _;
use serde::Serialize;

use super::apply::unstick;
use super::diff::{Change, changes};
use super::objects::{Object, objects};
use super::{Install, Rendered, Unpacked};
use crate::cluster::{self, Access, Cluster, Kinds, Node, Resource};
use crate::error::{Error, Kind, Result};
use crate::format::Image;
use crate::helm::Revision;
use crate::reference::Mapping;
use crate::registry::{Client, Presence};

/// Questions that are asked at a time.
const PARALLEL: usize = 8;
/// What helm does with every object: it looks, makes or changes, waits, and takes away what is not wanted any more.
const APPLY: [&str; 6] = ["get", "list", "watch", "create", "patch", "delete"];
/// What helm does with the Secrets that it keeps releases in.
const KEEP: [&str; 5] = ["get", "list", "create", "update", "delete"];

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// The install would fail.
    Error,
    /// It may.
    Warning,
    /// To be known.
    Note,
}

/// Something that was found.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// Whose matter it is; decides the exit code.
    #[serde(skip)]
    pub kind: Kind,
    /// What it is.
    pub what: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// A release, and what becomes of it.
#[derive(Debug, Serialize)]
pub struct Planned {
    /// Its name.
    pub release: String,
    /// Its namespace.
    pub namespace: String,
    /// The revision that is there now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// Objects that will be others.
    pub changes: Vec<Change>,
    /// Objects that helm runs and does not keep.
    pub hooks: Vec<String>,
}

/// What was found before anything changed.
#[derive(Debug, Default, Serialize)]
pub struct Preflight {
    /// The cluster's version.
    pub version: String,
    /// What may be wrong.
    pub findings: Vec<Finding>,
    /// What will change.
    pub releases: Vec<Planned>,
    /// What we must be allowed to do.
    #[serde(skip)]
    pub rights: BTreeSet<Access>,
}

impl Preflight {
    fn add(&mut self, level: Level, kind: Kind, what: impl Into<String>, hint: Option<&str>) {
        self.findings.push(Finding { level, kind, what: what.into(), hint: hint.map(Into::into) });
    }

    /// The errors among the findings as one failure, if there are any.
    ///
    /// # Errors
    /// That failure.
    pub fn passed(&self) -> Result<()> {
        let errors: Vec<&Finding> = self.findings.iter().filter(|f| f.level == Level::Error).collect();
        let Some(first) = errors.first() else { return Ok(()) };
        let text: Vec<&str> = errors.iter().map(|finding| finding.what.as_str()).collect();
        let mut hints: Vec<&str> = errors.iter().filter_map(|finding| finding.hint.as_deref()).collect();
        hints.dedup();
        let hints = if hints.is_empty() { String::new() } else { format!("{}; ", hints.join("; ")) };
        Err(Error::new(first.kind, "checking before anything is changed", text.join("\n  "))
            .hint(format!("{hints}nothing was changed; --skip-preflight leaves these checks out")))
    }
}

impl Install<'_> {
    /// Asks the cluster, renders for what it is, and compares. Nothing is changed.
    ///
    /// # Errors
    /// When the cluster can't be reached, helm can't render, or the gate refuses. What else is wrong is a finding.
    pub async fn preflight(&self, cluster: &Cluster) -> Result<(Preflight, Vec<Rendered>)> {
        let mut found = Preflight { version: cluster.version().await?, ..Preflight::default() };
        let mut kinds = cluster.kinds().await?;
        if !kinds.silent.is_empty() {
            let what = format!("these parts of the cluster's API do not answer: {}", kinds.silent.join(", "));
            found.add(Level::Warning, Kind::Cluster, what, None);
        }
        let mut running: BTreeMap<String, Revision> = BTreeMap::new();
        for chart in &self.charts {
            if let Some(known) = self.helm.last(self.place(chart)).await? {
                self.judge_running(chart, &known, &mut found);
                running.insert(chart.chart.release.clone(), known);
            }
        }
        let api_versions = kinds.api_versions();
        let rendered = self
            .render(|release| {
                let mut arguments = vec!["--kube-version".into(), found.version.clone()];
                for version in &api_versions {
                    arguments.extend(["--api-versions".into(), version.clone()]);
                }
                if running.contains_key(release) {
                    arguments.push("--is-upgrade".into());
                }
                arguments
            })
            .await?;
        let mut needed = BTreeSet::new();
        for (chart, rendered) in self.charts.iter().zip(&rendered) {
            let namespace = chart.namespace.as_deref().unwrap_or(cluster.namespace());
            let (rendered_objects, unread) = objects(&rendered.manifests);
            if unread > 0 {
                let what =
                    format!("release {}: {unread} documents could not be looked into", rendered.release);
                found.add(Level::Warning, Kind::Cluster, what, None);
            }
            self.definitions(chart, &rendered_objects, cluster, &mut kinds, &mut found).await?;
            needed.extend(rights(&rendered.release, namespace, &rendered_objects, &kinds, &mut found));
            match cluster.presence(namespace).await? {
                cluster::Presence::There => {}
                cluster::Presence::Absent => {
                    needed.insert(access("create", "", "namespaces", None));
                    let what = format!("namespace {namespace} is not there yet: it will be made");
                    found.add(Level::Note, Kind::Cluster, what, None);
                }
                cluster::Presence::Going => {
                    let what = format!("namespace {namespace} is being deleted");
                    found.add(Level::Error, Kind::Cluster, what, Some("wait until it is gone"));
                }
            }
            let before = match running.get(&rendered.release) {
                Some(known) => {
                    let text = self.helm.manifest(self.place(chart)).await?;
                    Some((known.revision, objects(&String::from_utf8_lossy(&text)).0))
                }
                None => None,
            };
            found.releases.push(planned(rendered, namespace, &rendered_objects, before));
        }
        self.check_rights(cluster, &needed, &mut found).await?;
        found.rights = needed;
        self.check_nodes(cluster, &mut found).await;
        Ok((found, rendered))
    }

    fn judge_running(&self, chart: &Unpacked<'_>, known: &Revision, found: &mut Preflight) {
        let release = &chart.chart.release;
        if known.is_pending() {
            let named =
                chart.namespace.as_deref().map(|namespace| format!(" -n {namespace}")).unwrap_or_default();
            let what = format!(
                "release {release} is {} at revision {}: another helm is at work on it, or was stopped in the middle",
                known.status, known.revision
            );
            let hint = unstick(release, &named, known);
            found.add(Level::Error, Kind::Cluster, what, Some(&hint));
        } else if known.status == "failed" {
            let what = format!("release {release} has failed before, at revision {}", known.revision);
            found.add(Level::Note, Kind::Cluster, what, None);
        }
    }

    /// Custom resource definitions that the chart brings: those in `crds/`, which helm makes once and never changes, and
    /// those among its manifests.
    async fn definitions(
        &self,
        chart: &Unpacked<'_>,
        rendered: &[Object],
        cluster: &Cluster,
        kinds: &mut Kinds,
        found: &mut Preflight,
    ) -> Result<()> {
        let text = self.helm.definitions(&chart.release()).await?;
        let (once, _) = objects(&text);
        for object in once.iter().chain(rendered) {
            if object.kind == "CustomResourceDefinition" {
                add_kinds(object, kinds);
            }
        }
        let mut kept = Vec::new();
        for object in &once {
            let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{}", object.name);
            if cluster.find::<serde_json::Value>(&path).await?.is_some() {
                kept.push(object.name.as_str());
            }
        }
        if !kept.is_empty() {
            let what = format!(
                "release {}: helm leaves these definitions as they are in the cluster, also where the chart's are newer: {}",
                chart.chart.release,
                kept.join(", ")
            );
            found.add(Level::Note, Kind::Cluster, what, None);
        }
        // What can't be read as YAML, helm will not take either.
        let named = crate::discover::discover(&text).unwrap_or_default();
        if !named.is_empty() {
            let mut texts: Vec<&str> = named.iter().map(|reference| reference.text.as_str()).collect();
            texts.dedup();
            let what = format!(
                "release {}: definitions in crds/ are applied as they are, and name images: {}",
                chart.chart.release,
                texts.join(", ")
            );
            found.add(Level::Warning, Kind::Cluster, what, None);
        }
        Ok(())
    }

    async fn check_rights(
        &self,
        cluster: &Cluster,
        needed: &BTreeSet<Access>,
        found: &mut Preflight,
    ) -> Result<()> {
        // Who may do everything is asked no more.
        if cluster.allows(&access("*", "*", "*", None)).await? {
            return Ok(());
        }
        let answers = futures_util::stream::iter(needed)
            .map(async |access| cluster.allows(access).await.map(|allowed| (access, allowed)))
            .buffered(PARALLEL);
        let mut answers = std::pin::pin!(answers);
        let mut missing = Vec::new();
        while let Some(answer) = answers.next().await {
            let (access, allowed) = answer?;
            if !allowed {
                missing.push(access.to_string());
            }
        }
        if !missing.is_empty() {
            let what = format!("the kubeconfig's user may not: {}", missing.join(", "));
            let hint = "ask the cluster's administrator for these rights, or use another kubeconfig";
            found.add(Level::Error, Kind::Cluster, what, Some(hint));
        }
        Ok(())
    }

    async fn check_nodes(&self, cluster: &Cluster, found: &mut Preflight) {
        match cluster.nodes().await {
            Ok(nodes) => found.findings.extend(judge_nodes(&nodes, &self.manifest.images)),
            Err(error) => {
                let what = format!("the nodes' platforms were not compared with the bundle's: {error}");
                found.add(Level::Warning, Kind::Cluster, what, None);
            }
        }
    }

    /// What the site's registry says: whether it takes pushes, or (`pushes` is false) whether every image is there.
    pub async fn check_registry(
        &self,
        client: &Client,
        mapping: &Mapping,
        pushes: bool,
        found: &mut Preflight,
    ) {
        let registry = mapping.registry();
        let Some(first) = self.manifest.images.first() else { return };
        if pushes {
            let repository = client.repository(registry, &mapping.repository(&first.reference));
            match repository.may_push().await {
                Ok(()) => {
                    let what =
                        format!("{registry} takes pushes; a registry does not say whether it has room");
                    found.add(Level::Note, Kind::Network, what, None);
                }
                Err(error) => {
                    found.add(Level::Error, error.kind(), error.to_string(), error.hint_text());
                }
            }
            return;
        }
        let asking = self.manifest.images.iter().map(async |image| {
            let repository = client.repository(registry, &mapping.repository(&image.reference));
            (image, repository.presence(&image.digest.to_string()).await)
        });
        let mut answers = std::pin::pin!(futures_util::stream::iter(asking).buffered(PARALLEL));
        let mut missing = Vec::new();
        while let Some((image, answer)) = answers.next().await {
            match answer {
                Ok(Presence::There) => {}
                Ok(Presence::Absent) => missing.push(image.reference.to_string()),
                Ok(Presence::Refused(code)) => {
                    let what = format!(
                        "{registry} does not show its images from here (it answers {code}): they were not looked for"
                    );
                    return found.add(Level::Warning, Kind::Network, what, None);
                }
                Err(error) => {
                    let what = format!(
                        "the images at {registry} were not looked for, it can't be reached from here: {error}"
                    );
                    let hint = "that is right where only nodes reach it by this name; --prove-pull asks them";
                    return found.add(Level::Warning, Kind::Network, what, Some(hint));
                }
            }
        }
        if !missing.is_empty() {
            let what = format!("{registry} does not have: {}", missing.join(", "));
            let hint = "push the bundle first, or leave out --no-push";
            found.add(Level::Error, Kind::Network, what, Some(hint));
        }
    }
}

fn access(verb: &str, group: &str, resource: &str, namespace: Option<&str>) -> Access {
    Access {
        verb: verb.into(),
        group: group.into(),
        resource: resource.into(),
        namespace: namespace.map(Into::into),
    }
}

/// Kinds that a definition makes known.
fn add_kinds(definition: &Object, kinds: &mut Kinds) {
    let spec = &definition.value["spec"];
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let (group, kind) = (text(&spec["group"]), text(&spec["names"]["kind"]));
    let resource =
        Resource { name: text(&spec["names"]["plural"]), namespaced: spec["scope"] == "Namespaced" };
    for version in spec["versions"].as_array().into_iter().flatten() {
        let api_version = format!("{group}/{}", text(&version["name"]));
        kinds.insert(&api_version, &kind, resource.clone());
    }
}

/// What applying the objects needs; kinds that the cluster does not have are findings.
fn rights(
    release: &str,
    namespace: &str,
    objects: &[Object],
    kinds: &Kinds,
    found: &mut Preflight,
) -> BTreeSet<Access> {
    let mut needed: BTreeSet<Access> =
        KEEP.iter().map(|verb| access(verb, "", "secrets", Some(namespace))).collect();
    // What is waited for.
    for (group, resource) in [("", "pods"), ("apps", "replicasets")] {
        needed.extend(["list", "watch"].map(|verb| access(verb, group, resource, Some(namespace))));
    }
    let mut unknown = BTreeSet::new();
    for object in objects {
        let Some(resource) = kinds.get(&object.api_version, &object.kind) else {
            unknown.insert(format!("{} {}", object.api_version, object.kind));
            continue;
        };
        let place = resource.namespaced.then(|| object.namespace.as_deref().unwrap_or(namespace));
        needed.extend(APPLY.map(|verb| access(verb, object.group(), &resource.name, place)));
    }
    if !unknown.is_empty() {
        let list = unknown.into_iter().collect::<Vec<_>>().join(", ");
        let what = format!("release {release}: the cluster does not know these kinds: {list}");
        let hint = "install the operator or the definitions that they belong to first, or switch them off by the chart's values";
        found.add(Level::Error, Kind::Cluster, what, Some(hint));
    }
    needed
}

fn planned(
    rendered: &Rendered,
    namespace: &str,
    new: &[Object],
    before: Option<(u64, Vec<Object>)>,
) -> Planned {
    let (revision, old) = before.map_or((None, vec![]), |(revision, old)| (Some(revision), old));
    Planned {
        release: rendered.release.clone(),
        namespace: namespace.into(),
        revision,
        changes: changes(&old, new, namespace),
        hooks: new.iter().filter(|object| object.hook.is_some()).map(Object::title).collect(),
    }
}

/// Nodes that some images don't run on. If no node is left for an image, that is an error.
fn judge_nodes(nodes: &[Node], images: &[Image]) -> Vec<Finding> {
    let finding = |level, what, hint: Option<&str>| Finding {
        level,
        kind: Kind::Cluster,
        what,
        hint: hint.map(Into::into),
    };
    let mut platforms: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for node in nodes {
        platforms.entry(node.platform()).or_default().push(&node.metadata.name);
    }
    // A node says linux/arm; an image, linux/arm/v7.
    let fits = |image: &Image, node: &str| {
        image.platforms.is_empty() || image.platforms.keys().any(|platform| platform.runs_on(node))
    };
    let names = |images: &[&Image]| {
        images.iter().map(|image| image.reference.to_string()).collect::<Vec<_>>().join(", ")
    };
    let homeless: Vec<&Image> = images
        .iter()
        .filter(|image| !platforms.is_empty() && !platforms.keys().any(|node| fits(image, node)))
        .collect();
    let mut all = Vec::new();
    if !homeless.is_empty() {
        let has = platforms.keys().cloned().collect::<Vec<_>>().join(", ");
        let what = format!("no node runs these images (the nodes are {has}): {}", names(&homeless));
        let hint = "lock and build the bundle for the nodes' platforms: `platforms` in bundle.toml";
        all.push(finding(Level::Error, what, Some(hint)));
    }
    for (platform, on) in &platforms {
        let without: Vec<&Image> = images
            .iter()
            .filter(|image| {
                !fits(image, platform) && !homeless.iter().any(|h| h.reference == image.reference)
            })
            .collect();
        if !without.is_empty() {
            let what = format!(
                "nodes {} are {platform}, and can't run: {}; keep their pods away by node selectors",
                on.join(", "),
                names(&without)
            );
            all.push(finding(Level::Warning, what, None));
        }
    }
    let ready = nodes.iter().filter(|node| node.is_ready()).count();
    if ready < nodes.len() || nodes.is_empty() {
        let what = format!("{ready} of {} nodes are ready", nodes.len());
        all.push(finding(Level::Warning, what, None));
    }
    all
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::image::OCI_MANIFEST;

    fn image(name: &str, platforms: &[&str]) -> Image {
        let digest = crate::digest::Digest::of(name.as_bytes());
        Image {
            digest,
            media_type: OCI_MANIFEST.into(),
            platforms: platforms.iter().map(|p| (p.parse().expect("a platform"), digest)).collect(),
            reference: name.parse().expect("a reference"),
            repository: name.into(),
            upstream: None,
            meant_by: vec![],
            signed_by: vec![],
            attached: vec![],
        }
    }

    fn node(name: &str, architecture: &str) -> Node {
        let status = json!({"nodeInfo": {"operatingSystem": "linux", "architecture": architecture},
            "conditions": [{"type": "Ready", "status": "True"}]});
        serde_json::from_value(json!({"metadata": {"name": name}, "status": status})).expect("a node")
    }

    #[test]
    fn images_need_a_node_of_their_platform() {
        let images = [image("a:1", &["linux/amd64", "linux/arm64"]), image("b:1", &["linux/amd64"])];
        assert!(judge_nodes(&[node("n1", "amd64")], &images).is_empty());
        let mixed = judge_nodes(&[node("n1", "amd64"), node("n2", "arm64")], &images);
        assert_eq!((mixed.len(), mixed[0].level), (1, Level::Warning));
        assert!(
            mixed[0].what.contains("nodes n2 are linux/arm64") && !mixed[0].what.contains("/a:1"),
            "{mixed:?}"
        );
        let none = judge_nodes(&[node("n2", "arm64")], &images);
        assert_eq!((none.len(), none[0].level), (1, Level::Error));
        assert!(none[0].what.contains("library/b:1") && none[0].what.contains("linux/arm64"), "{none:?}");
        assert!(judge_nodes(&[node("n3", "arm")], &[image("c:1", &["linux/arm/v7"])]).is_empty());
    }

    #[test]
    fn rights_follow_from_the_manifests() {
        let mut kinds = Kinds::default();
        let namespaced = |name: &str| Resource { name: name.into(), namespaced: true };
        kinds.insert("apps/v1", "Deployment", namespaced("deployments"));
        kinds.insert("rbac/v1", "ClusterRole", Resource { name: "clusterroles".into(), namespaced: false });
        let text = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\n---\n\
                    apiVersion: rbac/v1\nkind: ClusterRole\nmetadata: {name: r, annotations: {helm.sh/hook: x}}\n---\n\
                    apiVersion: db.io/v1\nkind: Database\nmetadata: {name: d}\n---\n\
                    apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: things.t.io}\n\
                    spec: {group: t.io, scope: Namespaced, names: {kind: Thing, plural: things}, versions: [{name: v1}]}\n---\n\
                    apiVersion: t.io/v1\nkind: Thing\nmetadata: {name: t, namespace: other}\n";
        let (objects, _) = objects(text);
        objects
            .iter()
            .filter(|o| o.kind == "CustomResourceDefinition")
            .for_each(|o| add_kinds(o, &mut kinds));
        let mut found = Preflight::default();
        let needed = rights("web", "shop", &objects, &kinds, &mut found);
        for (verb, group, resource, namespace) in [
            ("patch", "apps", "deployments", Some("shop")),
            ("delete", "rbac", "clusterroles", None),
            ("create", "t.io", "things", Some("other")),
            ("update", "", "secrets", Some("shop")),
        ] {
            assert!(needed.contains(&access(verb, group, resource, namespace)), "{verb} {resource}");
        }
        assert!(!needed.contains(&access("patch", "apps", "deployments", Some("other"))));
        let error = found.passed().expect_err("an unknown kind");
        assert!(error.to_string().contains("db.io/v1 Database"), "{error}");
        assert!(!error.to_string().contains("Thing"), "{error}");
    }
}
