//! The objects in a stream of manifests, as far as preflight and waiting ask about them.

use serde_json::Value;
use serde_saphyr::DuplicateKeyPolicy;

/// Annotation that makes an object a hook: helm runs it, and does not keep it with the release.
const HOOK: &str = "helm.sh/hook";

/// An object.
#[derive(Clone, Debug)]
pub struct Object {
    /// `apps/v1`.
    pub api_version: String,
    /// `Deployment`.
    pub kind: String,
    /// Its namespace, where it names one.
    pub namespace: Option<String>,
    /// Its name; empty where the server makes one.
    pub name: String,
    /// What hook it is, if it is one: `pre-install,pre-upgrade`.
    pub hook: Option<String>,
    /// All of it.
    pub value: Value,
}

impl Object {
    fn of(value: Value) -> Option<Self> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let metadata = &value["metadata"];
        Some(Self {
            api_version: text(&value["apiVersion"])?,
            kind: text(&value["kind"])?,
            namespace: text(&metadata["namespace"]).filter(|n| !n.is_empty()),
            name: text(&metadata["name"]).unwrap_or_default(),
            hook: text(&metadata["annotations"][HOOK]),
            value,
        })
    }

    /// API group: empty for the core's.
    #[must_use]
    pub fn group(&self) -> &str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }

    /// `Deployment default/web`, for people, and the same whatever version of the API it is written in.
    #[must_use]
    pub fn title(&self) -> String {
        let namespace = self.namespace.as_ref().map(|n| format!("{n}/")).unwrap_or_default();
        format!("{} {namespace}{}", self.kind, self.name)
    }

    /// Whether it makes pods.
    #[must_use]
    pub fn is_workload(&self) -> bool {
        matches!(
            self.kind.as_str(),
            "Deployment"
                | "StatefulSet"
                | "DaemonSet"
                | "ReplicaSet"
                | "ReplicationController"
                | "Job"
                | "Pod"
        )
    }
}

/// The objects in `manifests`, those in lists taken out, and how many documents could not be read as one.
#[must_use]
pub fn objects(manifests: &str) -> (Vec<Object>, usize) {
    let mut found = Vec::new();
    let mut unread = 0;
    for document in documents(manifests) {
        let options = serde_saphyr::options! { duplicate_keys: DuplicateKeyPolicy::LastWins };
        match serde_saphyr::from_str_with_options::<Value>(document, options) {
            Ok(Value::Null) => {}
            Ok(value) => take(value, &mut found, &mut unread),
            Err(_) => unread += 1,
        }
    }
    (found, unread)
}

fn take(value: Value, found: &mut Vec<Object>, unread: &mut usize) {
    let is_list = value["kind"].as_str().is_some_and(|kind| kind.ends_with("List"));
    match (is_list, value) {
        (true, Value::Object(mut map)) if map.get("items").is_some_and(Value::is_array) => {
            let items = map.remove("items").and_then(|items| items.as_array().cloned());
            items.into_iter().flatten().for_each(|item| take(item, found, unread));
        }
        (_, value) => match Object::of(value) {
            Some(object) => found.push(object),
            None => *unread += 1,
        },
    }
}

/// Parts between lines that begin with `---`: within a block scalar no line can, and helm splits the same way.
fn documents(manifests: &str) -> impl Iterator<Item = &str> {
    let mut rest = manifests;
    let mut done = false;
    std::iter::from_fn(move || {
        if done {
            return None;
        }
        let mut at = 0;
        for line in rest.split_inclusive('\n') {
            let content = line.trim_end();
            if let Some(after) = content.strip_prefix("---")
                && (after.is_empty() || after.starts_with(char::is_whitespace))
            {
                let document = &rest[..at];
                rest = &rest[at + 3..];
                return Some(document);
            }
            at += line.len();
        }
        done = true;
        Some(rest)
    })
    .filter(|document| !document.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_found_in_documents_and_lists() {
        let text = "---\n# Source: a\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, namespace: a}\n\
                    --- \napiVersion: v1\nkind: ConfigMapList\nitems:\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: c}}\n\
                    ---\n# nothing\n---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: t\n  annotations: {helm.sh/hook: test}\n\
                    data: |\n  --- no\n---\n: [\n---\njust: text\n";
        let (objects, unread) = objects(text);
        let titles: Vec<_> = objects.iter().map(Object::title).collect();
        assert_eq!(titles, ["Deployment a/web", "ConfigMap c", "Pod t"]);
        assert_eq!((objects[0].group(), objects[1].group()), ("apps", ""));
        assert_eq!(objects[2].hook.as_deref(), Some("test"));
        assert_eq!(unread, 2);
    }
}
