//! Which kinds of objects are in a namespace: Kubernetes' own, and those that definitions in the charts make known.

use std::collections::BTreeMap;

use super::objects::Object;

/// Kubernetes' own kinds by API group: those of the whole cluster, and those in a namespace.
const OWN: [(&str, &[&str], &[&str]); 22] = [
    (
        "",
        &["ComponentStatus", "Namespace", "Node", "PersistentVolume"],
        &[
            "Binding",
            "ConfigMap",
            "Endpoints",
            "Event",
            "LimitRange",
            "PersistentVolumeClaim",
            "Pod",
            "PodTemplate",
            "ReplicationController",
            "ResourceQuota",
            "Secret",
            "Service",
            "ServiceAccount",
        ],
    ),
    (
        "admissionregistration.k8s.io",
        &[
            "MutatingAdmissionPolicy",
            "MutatingAdmissionPolicyBinding",
            "MutatingWebhookConfiguration",
            "ValidatingAdmissionPolicy",
            "ValidatingAdmissionPolicyBinding",
            "ValidatingWebhookConfiguration",
        ],
        &[],
    ),
    ("apiextensions.k8s.io", &["CustomResourceDefinition"], &[]),
    ("apiregistration.k8s.io", &["APIService"], &[]),
    ("apps", &[], &["ControllerRevision", "DaemonSet", "Deployment", "ReplicaSet", "StatefulSet"]),
    ("authentication.k8s.io", &["SelfSubjectReview", "TokenReview"], &[]),
    (
        "authorization.k8s.io",
        &["SelfSubjectAccessReview", "SelfSubjectRulesReview", "SubjectAccessReview"],
        &["LocalSubjectAccessReview"],
    ),
    ("autoscaling", &[], &["HorizontalPodAutoscaler"]),
    ("batch", &[], &["CronJob", "Job"]),
    ("certificates.k8s.io", &["CertificateSigningRequest", "ClusterTrustBundle"], &["PodCertificateRequest"]),
    ("coordination.k8s.io", &[], &["Lease", "LeaseCandidate"]),
    ("discovery.k8s.io", &[], &["EndpointSlice"]),
    ("events.k8s.io", &[], &["Event"]),
    (
        "extensions",
        &["PodSecurityPolicy"],
        &["DaemonSet", "Deployment", "Ingress", "NetworkPolicy", "ReplicaSet"],
    ),
    ("flowcontrol.apiserver.k8s.io", &["FlowSchema", "PriorityLevelConfiguration"], &[]),
    ("networking.k8s.io", &["IPAddress", "IngressClass", "ServiceCIDR"], &["Ingress", "NetworkPolicy"]),
    ("node.k8s.io", &["RuntimeClass"], &[]),
    ("policy", &["PodSecurityPolicy"], &["Eviction", "PodDisruptionBudget"]),
    ("rbac.authorization.k8s.io", &["ClusterRole", "ClusterRoleBinding"], &["Role", "RoleBinding"]),
    (
        "resource.k8s.io",
        &["DeviceClass", "DeviceTaintRule", "ResourceSlice"],
        &["ResourceClaim", "ResourceClaimTemplate"],
    ),
    ("scheduling.k8s.io", &["PriorityClass"], &[]),
    (
        "storage.k8s.io",
        &["CSIDriver", "CSINode", "StorageClass", "VolumeAttachment", "VolumeAttributesClass"],
        &["CSIStorageCapacity"],
    ),
];

/// Known kinds.
#[derive(Debug)]
pub(super) struct Scopes {
    /// By group and kind: whether it is in a namespace.
    known: BTreeMap<(String, String), bool>,
}

impl Scopes {
    /// Kubernetes' own kinds, and those that somebody says are in a namespace: `KIND.GROUP`.
    pub(super) fn new(namespaced: &[String]) -> Self {
        let mut known = BTreeMap::new();
        for (group, cluster, namespaced) in OWN {
            let kinds = cluster.iter().map(|kind| (kind, false));
            for (kind, is_namespaced) in kinds.chain(namespaced.iter().map(|kind| (kind, true))) {
                known.insert((group.to_owned(), (*kind).to_owned()), is_namespaced);
            }
        }
        for name in namespaced {
            let (kind, group) = name.split_once('.').unwrap_or((name, ""));
            known.insert((group.into(), kind.into()), true);
        }
        Self { known }
    }

    /// Adds the kinds that definitions among these objects make known.
    pub(super) fn define(&mut self, objects: &[Object]) {
        for object in objects.iter().filter(|object| object.kind == "CustomResourceDefinition") {
            let spec = &object.value["spec"];
            if let (Some(group), Some(kind)) = (spec["group"].as_str(), spec["names"]["kind"].as_str()) {
                self.known.insert((group.into(), kind.into()), spec["scope"] == "Namespaced");
            }
        }
    }

    /// Reports whether objects of this kind are in a namespace; none if that is unknown.
    pub(super) fn is_namespaced(&self, api_version: &str, kind: &str) -> Option<bool> {
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        self.known.get(&(group.to_owned(), kind.to_owned())).copied()
    }
}
