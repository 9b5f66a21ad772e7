//! What a release still waits for, and why: pods that are not ready, in the words of scheduler, kubelet and controllers.

use serde::Serialize;

use super::objects::Object;
use crate::cluster::{Cluster, ContainerStatus, Event, Pod};
use crate::error::Result;

/// Reasons of a waiting container that say nothing yet.
const ORDINARY: [&str; 3] = ["", "ContainerCreating", "PodInitializing"];
/// Longest message that is passed on, in characters: runtimes wrap one text into the next.
const LONGEST: usize = 400;

/// Something that is not ready.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Trouble {
    /// `pod web-6d4b` or `deployment web`.
    pub what: String,
    /// Why not.
    pub why: String,
    /// Whether it has failed at something, and is not just on its way.
    pub failing: bool,
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.what, self.why)
    }
}

/// Asks the cluster what of `objects` is not ready. Those without a namespace are in `namespace`.
///
/// # Errors
/// When pods can't be listed; without the right to list events only their words are missing.
pub async fn troubles(cluster: &Cluster, objects: &[Object], namespace: &str) -> Result<Vec<Trouble>> {
    let workloads: Vec<&Object> = objects.iter().filter(|object| object.is_workload()).collect();
    let mut namespaces: Vec<&str> =
        workloads.iter().map(|object| object.namespace.as_deref().unwrap_or(namespace)).collect();
    namespaces.sort_unstable();
    namespaces.dedup();
    let mut all = Vec::new();
    for place in namespaces {
        let here: Vec<&Object> = workloads
            .iter()
            .filter(|object| object.namespace.as_deref().unwrap_or(namespace) == place)
            .copied()
            .collect();
        let pods = cluster.pods(place).await?;
        let warnings = cluster.warnings(place).await.unwrap_or_default();
        all.extend(judge(&here, &pods, &warnings));
    }
    all.sort();
    Ok(all)
}

/// The same of what is known.
fn judge(workloads: &[&Object], pods: &[Pod], warnings: &[Event]) -> Vec<Trouble> {
    let mut all = Vec::new();
    for pod in pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
        if !pod.is_ready() && workloads.iter().any(|workload| belongs(pod, workload)) {
            let (why, failing) = why_not_ready(pod, warnings);
            all.push(Trouble { what: format!("pod {}", pod.metadata.name), why: shortened(&why), failing });
        }
    }
    // A controller that can't make pods at all: a quota, a policy, a missing service account.
    for workload in workloads.iter().filter(|workload| workload.kind != "Pod" && workload.hook.is_none()) {
        let has_pods = pods.iter().any(|pod| belongs(pod, workload));
        let about = |event: &&Event| {
            let object = &event.involved_object;
            object.kind != "Pod" && is_named_after(&object.name, &workload.name)
        };
        if !has_pods && let Some(event) = warnings.iter().filter(about).max_by_key(|event| event.when()) {
            let what = format!("{} {}", workload.kind.to_lowercase(), workload.name);
            let why = shortened(&format!("{}: {}", event.reason, event.message));
            all.push(Trouble { what, why, failing: true });
        }
    }
    all
}

/// Whether a workload, or the replica set or job that it made, owns the pod.
fn belongs(pod: &Pod, workload: &Object) -> bool {
    if workload.kind == "Pod" {
        return pod.metadata.name == workload.name;
    }
    pod.metadata.owner_references.iter().any(|owner| match (workload.kind.as_str(), owner.kind.as_str()) {
        ("Deployment", "ReplicaSet") => {
            owner.name.rsplit_once('-').is_some_and(|(name, _)| name == workload.name)
        }
        (kind, owner_kind) => kind == owner_kind && owner.name == workload.name,
    })
}

fn is_named_after(name: &str, workload: &str) -> bool {
    name.strip_prefix(workload).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

/// Why a pod is not ready, and whether that is a failure.
fn why_not_ready(pod: &Pod, warnings: &[Event]) -> (String, bool) {
    if let Some(why) = pod.unschedulable() {
        return (format!("no node takes it: {why}"), true);
    }
    let status = &pod.status;
    if status.phase == "Failed" && !status.reason.is_empty() {
        return (format!("{}: {}", status.reason, status.message), true);
    }
    let containers = || status.init_container_statuses.iter().chain(&status.container_statuses);
    if let Some(why) = containers().find_map(trouble_of) {
        return (why, true);
    }
    let about = |event: &&Event| event.involved_object.uid == pod.metadata.uid;
    if let Some(event) = warnings.iter().filter(about).max_by_key(|event| event.when()) {
        return (format!("{}: {}", event.reason, event.message), true);
    }
    let waiting: Vec<&str> =
        containers().filter(|c| !c.ready && c.state.terminated.is_none()).map(|c| c.name.as_str()).collect();
    let why = match waiting.as_slice() {
        [] => "it is being started".into(),
        names => format!("container {} is not ready yet", names.join(", ")),
    };
    (why, false)
}

/// What is wrong with a container, if it says so.
fn trouble_of(container: &ContainerStatus) -> Option<String> {
    let name = &container.name;
    if let Some(waiting) = &container.state.waiting
        && !ORDINARY.contains(&waiting.reason.as_str())
    {
        let mut text = format!("container {name}: {}", waiting.reason);
        if !waiting.message.is_empty() {
            text.push_str(&format!(": {}", waiting.message));
        }
        if let Some(last) = &container.last_state.terminated {
            text.push_str(&format!(" (it ended with exit code {}{})", last.exit_code, said(&last.message)));
        }
        return Some(text);
    }
    let ended = container.state.terminated.as_ref().filter(|ended| ended.exit_code != 0)?;
    Some(format!("container {name}: {}, exit code {}{}", ended.reason, ended.exit_code, said(&ended.message)))
}

fn said(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}

/// In one line. Of a long one the middle goes: what was tried stands in front, and why it failed at the end.
fn shortened(text: &str) -> String {
    let line: Vec<char> = text.split_whitespace().collect::<Vec<_>>().join(" ").chars().collect();
    if line.len() <= LONGEST {
        return line.iter().collect();
    }
    let (front, back) = (&line[..LONGEST / 2], &line[line.len() - LONGEST / 2..]);
    format!("{} … {}", front.iter().collect::<String>(), back.iter().collect::<String>())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::objects::objects;
    use super::*;

    fn pod(name: &str, owner: (&str, &str), status: Value) -> Pod {
        let metadata =
            json!({"name": name, "uid": name, "ownerReferences": [{"kind": owner.0, "name": owner.1}]});
        serde_json::from_value(json!({"metadata": metadata, "status": status})).expect("a pod")
    }

    fn troubles_of(pods: &[Pod], warnings: &Value) -> Vec<String> {
        let text = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\n---\n\
                    apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: db}\n";
        let (objects, _) = objects(text);
        let events: Vec<Event> = serde_json::from_value(warnings.clone()).expect("events");
        let workloads: Vec<&Object> = objects.iter().collect();
        judge(&workloads, pods, &events).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_reason_is_the_clusters_own() {
        let waiting = |reason: &str, message: &str| {
            json!({"phase": "Pending", "containerStatuses": [
                {"name": "app", "state": {"waiting": {"reason": reason, "message": message}}}]})
        };
        for (status, expected) in [
            (
                waiting("ImagePullBackOff", "Back-off pulling image \"r/x\""),
                "pod web-1-a: container app: ImagePullBackOff: Back-off pulling image \"r/x\"",
            ),
            (waiting("ContainerCreating", ""), "pod web-1-a: container app is not ready yet"),
            (
                json!({"phase": "Pending", "conditions": [
                    {"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available"}]}),
                "pod web-1-a: no node takes it: 0/1 nodes are available",
            ),
            (
                json!({"phase": "Running", "containerStatuses": [{"name": "app",
                    "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}},
                    "lastState": {"terminated": {"exitCode": 3, "reason": "Error"}}}]}),
                "pod web-1-a: container app: CrashLoopBackOff: back-off 10s (it ended with exit code 3)",
            ),
            (
                json!({"phase": "Failed", "reason": "Evicted", "message": "low on memory"}),
                "pod web-1-a: Evicted: low on memory",
            ),
        ] {
            assert_eq!(
                troubles_of(&[pod("web-1-a", ("ReplicaSet", "web-1"), status)], &json!([])),
                [expected]
            );
        }
    }

    #[test]
    fn long_reasons_keep_their_ends() {
        let long = format!("ErrImagePull: {} not found", "x".repeat(LONGEST));
        let short = shortened(&long);
        assert!(short.starts_with("ErrImagePull: x") && short.ends_with("x not found"), "{short}");
        assert_eq!(shortened("a\n b"), "a b");
    }

    #[test]
    fn only_pods_of_the_release_count_and_ready_ones_do_not() {
        let pending = || json!({"phase": "Pending"});
        let ready = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
        let pods = [
            pod("other-1-a", ("ReplicaSet", "web-other-1"), pending()),
            pod("web-1-b", ("ReplicaSet", "web-1"), ready),
            pod("db-0", ("StatefulSet", "db"), pending()),
        ];
        assert_eq!(troubles_of(&pods, &json!([])), ["pod db-0: it is being started"]);
    }

    #[test]
    fn a_controller_without_pods_speaks_through_its_events() {
        let events = json!([
            {"involvedObject": {"kind": "ReplicaSet", "name": "web-1"}, "reason": "FailedCreate",
             "message": "exceeded quota", "lastTimestamp": "2026-01-01T00:00:02Z"},
            {"involvedObject": {"kind": "ReplicaSet", "name": "website"}, "reason": "FailedCreate", "message": "no"},
        ]);
        let db = pod("db-0", ("StatefulSet", "db"), json!({"phase": "Succeeded"}));
        assert_eq!(troubles_of(&[db], &events), ["deployment web: FailedCreate: exceeded quota"]);
    }
}
