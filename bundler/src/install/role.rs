//! The least rights that an install needs, as Roles that an administrator can grant.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::cluster::Access;

/// Name of the roles.
const NAME: &str = "airlock-install";
/// What preflight reads besides; without these it only warns.
const READ: [(&str, &str, &str); 2] =
    [("list", "", "nodes"), ("get", "apiextensions.k8s.io", "customresourcedefinitions")];

/// Verbs by API group and resource.
type Rules<'a> = BTreeMap<(&'a str, &'a str), BTreeSet<&'a str>>;

/// A Role for each namespace and a ClusterRole, in a List that `kubectl apply` takes.
#[must_use]
pub fn roles(rights: &BTreeSet<Access>) -> Value {
    let mut places: BTreeMap<Option<&str>, Rules<'_>> = BTreeMap::new();
    for access in rights {
        let rules = places.entry(access.namespace.as_deref()).or_default();
        rules.entry((&access.group, &access.resource)).or_default().insert(&access.verb);
        // For the live view of what is not ready, and to see whether the namespace is there.
        if let Some(namespace) = access.namespace.as_deref() {
            let rules = places.entry(Some(namespace)).or_default();
            rules.entry(("", "events")).or_default().insert("list");
            rules.entry(("", "namespaces")).or_default().insert("get");
        }
    }
    let cluster = places.entry(None).or_default();
    for (verb, group, resource) in READ {
        cluster.entry((group, resource)).or_default().insert(verb);
    }
    let items: Vec<Value> = places
        .into_iter()
        .map(|(namespace, resources)| {
            let rules: Vec<Value> = resources
                .into_iter()
                .map(|((group, resource), verbs)| json!({"apiGroups": [group], "resources": [resource], "verbs": verbs}))
                .collect();
            let metadata = match namespace {
                Some(namespace) => json!({"name": NAME, "namespace": namespace}),
                None => json!({"name": NAME}),
            };
            let kind = if namespace.is_some() { "Role" } else { "ClusterRole" };
            json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": metadata, "rules": rules})
        })
        .collect();
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_become_a_role_for_each_namespace() {
        let access = |verb: &str, group: &str, resource: &str, namespace: Option<&str>| Access {
            verb: verb.into(),
            group: group.into(),
            resource: resource.into(),
            namespace: namespace.map(Into::into),
        };
        let rights = BTreeSet::from([
            access("create", "apps", "deployments", Some("shop")),
            access("patch", "apps", "deployments", Some("shop")),
            access("create", "", "namespaces", None),
        ]);
        let list = roles(&rights);
        assert_eq!(
            (&list["items"][0]["kind"], &list["items"][1]["kind"]),
            (&"ClusterRole".into(), &"Role".into())
        );
        let rules = list["items"][1]["rules"].as_array().expect("rules");
        let deployments =
            json!({"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["create", "patch"]});
        assert!(rules.contains(&deployments), "{rules:?}");
        assert_eq!(list["items"][1]["metadata"]["namespace"], "shop");
        let cluster = list["items"][0]["rules"].to_string();
        assert!(cluster.contains("namespaces") && cluster.contains("nodes"), "{cluster}");
    }
}
