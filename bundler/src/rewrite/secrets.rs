//! `imagePullSecrets` for pods whose site registry wants a login: put into every pod spec, every other byte as it was.

use std::collections::BTreeSet;

use crate::error::{Error, Result};
use crate::name;
use crate::yaml::{Node, NodeId, Segment, Stream};

/// Name of the field, in pod specs.
const FIELD: &str = "imagePullSecrets";

/// Adds the Secret `secret` to every pod spec that does not have it.
///
/// # Errors
/// When that is no name of a Secret, the manifests are not YAML, or a pod spec is written so that it has no place.
pub fn with_pull_secret(manifests: &str, secret: &str) -> Result<String> {
    name::secret(secret).map_err(|e| Error::input("reading --pull-secret", e))?;
    let stream = Stream::parse(manifests)?;
    let mut insertions = vec![];
    for pod in pod_specs(&stream) {
        insertions.extend(insertion(manifests, &stream, pod, secret)?);
    }
    insertions.sort();
    insertions.dedup();
    let (mut out, mut copied) = (String::with_capacity(manifests.len() + 64 * insertions.len()), 0);
    for (at, text) in insertions {
        out.push_str(&manifests[copied..at]);
        out.push_str(&text);
        copied = at;
    }
    out.push_str(&manifests[copied..]);
    check(&stream, &out, secret)?;
    Ok(out)
}

/// Every object with a list of containers that have images: schemas have none.
fn pod_specs(stream: &Stream<'_>) -> BTreeSet<NodeId> {
    let mut specs = BTreeSet::new();
    let mut open: Vec<NodeId> = stream.roots().to_vec();
    let mut seen = BTreeSet::new();
    while let Some(id) = open.pop().map(|id| stream.target(id)) {
        if !seen.insert(id) {
            continue;
        }
        match stream.node(id) {
            Node::Sequence(items) => open.extend(items),
            Node::Mapping(entries) => {
                open.extend(entries.iter().map(|(_, id)| *id));
                if let Some(Node::Sequence(items)) = stream.get(id, "containers").map(|id| stream.node(id))
                    && items.iter().any(|item| stream.text(*item, "image").is_some())
                {
                    specs.insert(id);
                }
            }
            Node::Scalar(_) | Node::Alias(_) => {}
        }
    }
    specs
}

/// What to insert, and where; nothing where the pod spec has it.
fn insertion(
    source: &str,
    stream: &Stream<'_>,
    pod: NodeId,
    secret: &str,
) -> Result<Option<(usize, String)>> {
    let no_place = || {
        Error::input(
            format!("adding {FIELD} to a pod spec"),
            "it is written so that there is no place for one",
        )
        .hint("set imagePullSecrets by the chart's values instead of --pull-secret")
    };
    match stream.get(pod, FIELD).map(|id| stream.node(id)) {
        Some(Node::Sequence(items)) => {
            if items.iter().any(|item| stream.text(*item, "name") == Some(secret)) {
                return Ok(None);
            }
            let first = items.first().and_then(|item| first_scalar(stream, *item)).ok_or_else(no_place)?;
            let line = source[..first].rfind('\n').map_or(0, |at| at + 1);
            let lead = &source[line..first];
            // `- name: x`, or `[{name: x}]` somewhere behind.
            if let Some(dash) = lead.find("- ").filter(|dash| lead[..*dash].trim().is_empty()) {
                let indent = &lead[..dash];
                return Ok(Some((line + dash, format!("- name: {secret}\n{indent}"))));
            }
            let bracket = lead.rfind('[').ok_or_else(no_place)?;
            Ok(Some((line + bracket + 1, format!("{{name: {secret}}}, "))))
        }
        Some(_) => Err(no_place()),
        None => {
            let containers = stream.get(pod, "containers").ok_or_else(no_place)?;
            let first = first_scalar(stream, containers).ok_or_else(no_place)?;
            // The word may stand in a comment, too.
            let is_key = |at: &(usize, &str)| {
                let behind =
                    source[at.0 + at.1.len()..].trim_start_matches(['"', '\'']).trim_start_matches(' ');
                behind.starts_with(':')
            };
            let (key, _) = source[..first].rmatch_indices("containers").find(is_key).ok_or_else(no_place)?;
            let quote = source[..key].chars().next_back().filter(|c| matches!(c, '"' | '\''));
            let key = key - quote.map_or(0, char::len_utf8);
            let line = source[..key].rfind('\n').map_or(0, |at| at + 1);
            let lead = &source[line..key];
            if !lead.chars().all(|c| matches!(c, ' ' | '-')) {
                let text = match quote {
                    Some('"') => format!("\"{FIELD}\": [{{\"name\": \"{secret}\"}}], "),
                    _ => format!("{FIELD}: [{{name: {secret}}}], "),
                };
                return Ok(Some((key, text)));
            }
            let indent = " ".repeat(lead.len());
            let end = if source[key..].split('\n').next().is_some_and(|line| line.ends_with('\r')) {
                "\r\n"
            } else {
                "\n"
            };
            Ok(Some((key, format!("{FIELD}:{end}{indent}- name: {secret}{end}{indent}"))))
        }
    }
}

/// Where the first scalar below a node stands.
fn first_scalar(stream: &Stream<'_>, id: NodeId) -> Option<usize> {
    match stream.node(id) {
        Node::Scalar(scalar) => (!scalar.span.is_empty()).then_some(scalar.span.start),
        Node::Sequence(items) => items.iter().find_map(|item| first_scalar(stream, *item)),
        Node::Mapping(entries) => entries.iter().find_map(|(_, id)| first_scalar(stream, *id)),
        Node::Alias(_) => None,
    }
}

/// Whether the outcome has the Secret in every pod spec, and everything else as before.
fn check(before: &Stream<'_>, text: &str, secret: &str) -> Result<()> {
    let after = Stream::parse(text)?;
    let has_it = |pod: &NodeId| {
        let Some(Node::Sequence(items)) = after.get(*pod, FIELD).map(|id| after.node(id)) else {
            return false;
        };
        items.iter().filter(|item| after.text(**item, "name") == Some(secret)).count() == 1
    };
    let others = |stream: &Stream<'_>| -> Result<Vec<String>> {
        let mut all = vec![];
        stream.walk(|at| {
            let is_secret = at.scalar.value == secret
                && at.path.iter().any(|step| matches!(step.segment, Segment::Key(FIELD)));
            if !is_secret {
                // Without the index: the others move up by one.
                let keys = at.path.iter().filter_map(|step| match step.segment {
                    Segment::Key(key) => Some(key),
                    Segment::Index(_) => None,
                });
                all.push(format!("{}={}", keys.collect::<Vec<_>>().join("."), at.scalar.value));
            }
            Ok(())
        })?;
        Ok(all)
    };
    if pod_specs(&after).iter().all(has_it) && others(before)? == others(&after)? {
        return Ok(());
    }
    Err(Error::input(format!("adding {FIELD} to the pod specs"), "it would change something else")
        .hint("set imagePullSecrets by the chart's values instead of --pull-secret"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pod_spec_gets_it_once_and_nothing_else_changes() {
        for (before, after) in [
            (
                "spec:\n  # why\n  containers:\n  - name: a\n    image: b\n",
                "spec:\n  # why\n  imagePullSecrets:\n  - name: s\n  containers:\n  - name: a\n    image: b\n",
            ),
            (
                "spec:\r\n  containers: # x\r\n  - image: b\r\n",
                "spec:\r\n  imagePullSecrets:\r\n  - name: s\r\n  containers: # x\r\n  - image: b\r\n",
            ),
            (
                "- containers:\n  - image: b\n",
                "- imagePullSecrets:\n  - name: s\n  containers:\n  - image: b\n",
            ),
            (
                "spec: {a: 1, containers: [{image: b}]}\n",
                "spec: {a: 1, imagePullSecrets: [{name: s}], containers: [{image: b}]}\n",
            ),
            (
                "spec:\n  containers:\n  # sidecar containers come later\n  - image: b\n",
                "spec:\n  imagePullSecrets:\n  - name: s\n  containers:\n  # sidecar containers come later\n  - image: b\n",
            ),
            (
                "{\"containers\":[{\"image\":\"b\"}]}",
                "{\"imagePullSecrets\": [{\"name\": \"s\"}], \"containers\":[{\"image\":\"b\"}]}",
            ),
            (
                "containers: [{image: b}]\nimagePullSecrets:\n  - name: t\n",
                "containers: [{image: b}]\nimagePullSecrets:\n  - name: s\n  - name: t\n",
            ),
            (
                "imagePullSecrets: [{name: t}]\ncontainers: [{image: b}]\n",
                "imagePullSecrets: [{name: s}, {name: t}]\ncontainers: [{image: b}]\n",
            ),
            (
                "imagePullSecrets: [{name: s}]\ncontainers: [{image: b}]\n",
                "imagePullSecrets: [{name: s}]\ncontainers: [{image: b}]\n",
            ),
            (
                "spec:\n  initContainers:\n  - image: a\n  containers:\n  - image: b\n---\nspec:\n  containers: {}\n",
                "spec:\n  initContainers:\n  - image: a\n  imagePullSecrets:\n  - name: s\n  containers:\n  - image: b\n---\nspec:\n  containers: {}\n",
            ),
        ] {
            assert_eq!(with_pull_secret(before, "s").expect(before), after);
            assert_eq!(with_pull_secret(after, "s").expect(after), after, "twice");
        }
    }

    #[test]
    fn where_there_is_no_place_it_is_said() {
        let error =
            with_pull_secret("imagePullSecrets: []\ncontainers: [{image: b}]\n", "s").expect_err("no place");
        assert!(error.to_string().contains("no place") && error.hint_text().is_some(), "{error}");
        assert!(with_pull_secret("a: 1\n", "Not A Name").is_err());
    }
}
