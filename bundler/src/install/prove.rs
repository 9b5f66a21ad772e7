//! Whether nodes can pull: a pod on each, with an image of the bundle at the site's registry, and a command that is not in
//! it, so that nothing runs. Made, watched and deleted before anything is installed.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use super::Install;
use crate::cluster::{Cluster, Node, Pod, Presence};
use crate::error::{Error, Result};
use crate::format::Image;
use crate::helm::Stop;
use crate::reference::Mapping;

/// Longest wait for a node's pull.
const PATIENCE: Duration = Duration::from_secs(180);
/// How often pods are looked at.
const POLL: Duration = Duration::from_secs(1);
/// Not in any image.
const COMMAND: &str = "/airlock-only-proves-the-pull";

/// What a node did.
#[derive(Clone, Debug, Serialize)]
pub struct Proof {
    /// The node.
    pub node: String,
    /// The image that it was to pull.
    pub image: String,
    /// Why it could not; none if it could.
    pub failure: Option<String>,
}

impl Install<'_> {
    /// Has every ready node pull an image of the bundle that it can run.
    ///
    /// # Errors
    /// When a node can't, in its own words, or pods can't be made. The pods are deleted again in any case.
    pub async fn prove_pull(&self, cluster: &Cluster, mapping: &Mapping) -> Result<Vec<Proof>> {
        let doing = "proving that nodes can pull";
        let Some(first) = self.charts.first() else { return Ok(vec![]) };
        let namespace = first.namespace.as_deref().unwrap_or(cluster.namespace());
        let nodes = cluster.nodes().await.map_err(|e| e.within(doing))?;
        let mut wanted = Vec::new();
        for node in nodes.iter().filter(|node| node.is_ready()) {
            if let Some(image) = self.image_for(node) {
                wanted.push((node, mapping.image(&image.reference, &image.digest)));
            }
        }
        if wanted.is_empty() {
            return Err(Error::cluster(doing, "no node is ready that runs an image of the bundle"));
        }
        let is_new = cluster.presence(namespace).await? == Presence::Absent;
        if is_new {
            let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
            cluster.create("/api/v1/namespaces", &object).await.map_err(|e| e.within(doing))?;
        }
        let pods = format!("/api/v1/namespaces/{namespace}/pods");
        let mut stop = Stop::listen();
        let mut made = Vec::new();
        let outcome = tokio::select! {
            outcome = prove(cluster, &pods, &wanted, self.rewriting.target.pull_secret.as_deref(), &mut made) => outcome,
            signal = stop.asked() => Err(Error::cluster(doing, format!("stopped by {signal}"))),
        };
        let mut left = Vec::new();
        for name in &made {
            if let Err(error) = cluster.delete(&format!("{pods}/{name}?gracePeriodSeconds=0")).await {
                left.push(format!("{name} ({error})"));
            }
        }
        let failed = outcome.as_ref().map_or(true, |proofs| proofs.iter().any(|p| p.failure.is_some()));
        // Helm makes the namespace again when it is its turn.
        if is_new && failed {
            remove_namespace(cluster, namespace).await;
        }
        if !left.is_empty() {
            tracing::warn!("these pods could not be deleted: {}", left.join(", "));
        }
        let proofs = outcome.map_err(|e| e.within(doing))?;
        let failures: Vec<String> = proofs
            .iter()
            .filter_map(|proof| {
                Some(format!("node {}: {}: {}", proof.node, proof.image, proof.failure.as_ref()?))
            })
            .collect();
        if failures.is_empty() {
            return Ok(proofs);
        }
        let hint = hint_for(&failures.join(" "), mapping.registry());
        Err(Error::cluster(doing, failures.join("\n  ")).hint(format!("{hint}; nothing was installed")))
    }

    fn image_for(&self, node: &Node) -> Option<&Image> {
        let platform = node.platform();
        let fits = |image: &&Image| {
            image.platforms.is_empty() || image.platforms.keys().any(|p| p.runs_on(&platform))
        };
        // The first is as good as any: layers are shared with what is installed next.
        self.manifest.images.iter().find(fits)
    }
}

/// Deletes it, and waits a while: until it is gone, nothing can be installed there.
async fn remove_namespace(cluster: &Cluster, namespace: &str) {
    if let Err(error) = cluster.delete(&format!("/api/v1/namespaces/{namespace}")).await {
        tracing::warn!(%error, "namespace {namespace} was made, and is left");
        return;
    }
    for _ in 0..30 {
        if !matches!(cluster.presence(namespace).await, Ok(Presence::Going)) {
            return;
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn prove(
    cluster: &Cluster,
    pods: &str,
    wanted: &[(&Node, String)],
    secret: Option<&str>,
    made: &mut Vec<String>,
) -> Result<Vec<Proof>> {
    for (node, image) in wanted {
        let object = cluster.create(pods, &pod(&node.metadata.name, image, secret)).await?;
        made.push(object["metadata"]["name"].as_str().unwrap_or_default().to_owned());
    }
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut proofs = Vec::new();
    for ((node, image), name) in wanted.iter().zip(made.iter()) {
        let failure = loop {
            let found: Pod = cluster.get(&format!("{pods}/{name}")).await?;
            if let Some(outcome) = outcome(&found) {
                break outcome.err();
            }
            if tokio::time::Instant::now() > deadline {
                break Some(format!("it has not pulled within {} seconds", PATIENCE.as_secs()));
            }
            tokio::time::sleep(POLL).await;
        };
        proofs.push(Proof { node: node.metadata.name.clone(), image: image.clone(), failure });
    }
    Ok(proofs)
}

/// A pod that the strictest of the Pod Security Standards (`restricted`) takes.
fn pod(node: &str, image: &str, secret: Option<&str>) -> Value {
    let secrets: Vec<Value> = secret.iter().map(|name| json!({"name": name})).collect();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "generateName": "airlock-prove-pull-",
            "labels": {"app.kubernetes.io/managed-by": "airlock", "app.kubernetes.io/name": "airlock-prove-pull"},
        },
        "spec": {
            "nodeName": node, "restartPolicy": "Never", "automountServiceAccountToken": false,
            "enableServiceLinks": false, "terminationGracePeriodSeconds": 0,
            "activeDeadlineSeconds": PATIENCE.as_secs() + 60,
            "tolerations": [{"operator": "Exists"}], "imagePullSecrets": secrets,
            "securityContext": {"runAsNonRoot": true, "runAsUser": 65534, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "pull", "image": image, "imagePullPolicy": "Always", "command": [COMMAND],
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
                "resources": {
                    "requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"cpu": "100m", "memory": "64Mi"},
                },
            }],
        },
    })
}

/// How the pull went, once it is over.
fn outcome(pod: &Pod) -> Option<Result<(), String>> {
    let status = &pod.status;
    if let Some(container) = status.container_statuses.first() {
        // There is an ID only of what was pulled.
        if !container.image_id.is_empty() || container.state.terminated.is_some() {
            return Some(Ok(()));
        }
        if let Some(waiting) = &container.state.waiting {
            let reason = waiting.reason.as_str();
            if reason.contains("ImagePull") || reason.contains("Image") || reason == "RegistryUnavailable" {
                return Some(Err(format!("{reason}: {}", waiting.message)));
            }
            // The pull comes before the container is made and run.
            if matches!(reason, "RunContainerError" | "CreateContainerError" | "CrashLoopBackOff") {
                return Some(Ok(()));
            }
        }
    }
    (status.phase == "Failed").then(|| Err(format!("{}: {}", status.reason, status.message)))
}

fn hint_for(text: &str, registry: &str) -> String {
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if has(&["server gave HTTP response to HTTPS client"]) {
        format!(
            "{registry} speaks plain HTTP, and the node's runtime wants TLS: `airlock mirrors` writes its configuration"
        )
    } else if has(&["x509", "certificate"]) {
        format!(
            "the node does not trust the certificate of {registry}: `airlock mirrors` writes a configuration with its authority"
        )
    } else if has(&["not found", "manifest unknown"]) {
        format!("the image is not at {registry}: push the bundle first, or leave out --no-push")
    } else if has(&["401", "403", "nauthorized", "denied", "no basic auth"]) {
        format!(
            "{registry} wants a login from nodes: a pull secret at the namespace's service account, or in the node's runtime"
        )
    } else {
        format!("the node has to reach {registry} by this very name: its name resolution, route and firewall")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pull_is_over_when_the_kubelet_says_so() {
        let pod = |status: Value| -> Pod {
            let metadata = json!({"name": "p"});
            serde_json::from_value(json!({"metadata": metadata, "status": status})).expect("a pod")
        };
        let waiting = |reason: &str| {
            pod(json!({"phase": "Pending", "containerStatuses": [
                {"name": "pull", "imageID": "", "state": {"waiting": {"reason": reason, "message": "m"}}}]}))
        };
        for (found, expected) in [
            (pod(json!({"phase": "Pending"})), None),
            (waiting("ContainerCreating"), None),
            (waiting("ErrImagePull"), Some(Err("ErrImagePull: m".to_owned()))),
            (waiting("InvalidImageName"), Some(Err("InvalidImageName: m".to_owned()))),
            (waiting("RunContainerError"), Some(Ok(()))),
            (
                pod(json!({"phase": "Failed", "containerStatuses": [
                    {"name": "pull", "imageID": "r@sha256:1", "state": {"terminated": {"exitCode": 128}}}]})),
                Some(Ok(())),
            ),
            (
                pod(json!({"phase": "Failed", "reason": "OutOfpods", "message": "full"})),
                Some(Err("OutOfpods: full".to_owned())),
            ),
        ] {
            assert_eq!(outcome(&found), expected);
        }
    }
}
