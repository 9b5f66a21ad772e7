//! The namespace of a release written into its objects, for those who apply manifests without helm: every other byte stays.

use std::collections::BTreeSet;

use super::scope::Scopes;
use crate::error::{Error, Result};
use crate::yaml::{Node, NodeId, Scalar, Segment, Stream};

/// Manifests with namespaces in them.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) text: String,
    /// Kinds that nobody knows: their objects are as they were. `Widget.acme.example`
    pub(super) unknown: BTreeSet<String>,
}

/// A change of the source: what stands there is replaced.
type Edit = (std::ops::Range<usize>, String);

/// Writes `namespace` into the metadata of every object that is in a namespace and names none, items of lists too.
///
/// # Errors
/// When the manifests are not YAML, or an object is written so that there is no place.
pub(super) fn place(manifests: &str, namespace: &str, scopes: &Scopes) -> Result<Placed> {
    let stream = Stream::parse(manifests)?;
    let mut placing =
        Placing { stream: &stream, manifests, namespace, scopes, edits: vec![], unknown: BTreeSet::new() };
    for root in stream.roots() {
        placing.object(*root)?;
    }
    let Placing { mut edits, unknown, .. } = placing;
    edits.sort_by_key(|(span, _)| span.start);
    // Several aliases to one object.
    edits.dedup();
    let (mut text, mut copied) = (String::with_capacity(manifests.len() + 32 * edits.len()), 0);
    for (span, new) in &edits {
        text.push_str(&manifests[copied..span.start]);
        text.push_str(new);
        copied = span.end;
    }
    text.push_str(&manifests[copied..]);
    let after = Stream::parse(&text)?;
    if rest(&stream)? != rest(&after)? {
        return Err(Error::input(
            format!("writing namespace {namespace} into the manifests"),
            "it would change something else",
        ));
    }
    Ok(Placed { text, unknown })
}

struct Placing<'a> {
    stream: &'a Stream<'a>,
    manifests: &'a str,
    namespace: &'a str,
    scopes: &'a Scopes,
    edits: Vec<Edit>,
    unknown: BTreeSet<String>,
}

impl Placing<'_> {
    fn object(&mut self, id: NodeId) -> Result<()> {
        let stream = self.stream;
        let (Some(api_version), Some(kind)) = (stream.text(id, "apiVersion"), stream.text(id, "kind")) else {
            return Ok(());
        };
        if kind.ends_with("List")
            && let Some(Node::Sequence(items)) = stream.get(id, "items").map(|items| stream.node(items))
        {
            return items.iter().try_for_each(|item| self.object(*item));
        }
        match self.scopes.is_namespaced(api_version, kind) {
            Some(true) => self.metadata(id, kind),
            Some(false) => Ok(()),
            None => {
                let metadata = stream.get(id, "metadata");
                if metadata
                    .is_none_or(|metadata| stream.text(metadata, "namespace").unwrap_or_default().is_empty())
                {
                    let group = api_version.split_once('/').map_or("", |(group, _)| group);
                    self.unknown.insert(format!("{kind}.{group}"));
                }
                Ok(())
            }
        }
    }

    fn metadata(&mut self, object: NodeId, kind: &str) -> Result<()> {
        let stream = self.stream;
        let Some(metadata) = stream.get(object, "metadata") else { return Ok(()) };
        let merges = match stream.get(metadata, "<<").map(|id| (id, stream.node(id))) {
            Some((_, Node::Sequence(items))) => items.to_vec(),
            Some((id, _)) => vec![id],
            None => vec![],
        };
        if merges.iter().any(|id| stream.text(*id, "namespace").is_some_and(|text| !text.is_empty())) {
            return Ok(());
        }
        if stream.text(metadata, "namespace").is_some_and(|text| !text.is_empty()) {
            return Ok(());
        }
        let edit = match self.scalar(metadata, "namespace") {
            Some(empty) => self.fill(empty),
            None => {
                ["name", "generateName"].iter().find_map(|key| self.beside(key, self.scalar(metadata, key)?))
            }
        };
        let name = stream.text(metadata, "name").unwrap_or_default();
        self.edits.push(edit.ok_or_else(|| {
            let doing = format!("writing namespace {} into {kind} {name}", self.namespace);
            Error::input(doing, "its metadata is written so that there is no place for one")
                .hint("have the chart's template name the namespace: {{ .Release.Namespace }}")
        })?);
        Ok(())
    }

    /// A scalar that stands at its key, rather than at an anchor elsewhere.
    fn scalar(&self, mapping: NodeId, key: &str) -> Option<&Scalar<'_>> {
        let Node::Mapping(entries) = self.stream.node(mapping) else { return None };
        let (_, id) = entries.iter().rev().find(|(name, _)| name == key)?;
        match self.stream.node(*id) {
            Node::Scalar(scalar) if self.stream.target(*id) == *id => Some(scalar),
            _ => None,
        }
    }

    /// Puts the namespace where an empty one stands.
    fn fill(&self, empty: &Scalar<'_>) -> Option<Edit> {
        if !empty.span.is_empty() {
            return Some((empty.span.clone(), self.namespace.into()));
        }
        let key = self.manifests[..empty.span.start].rfind("namespace")?;
        let colon = key + self.manifests[key..].find(':')? + 1;
        Some((colon..colon, format!(" {}", self.namespace)))
    }

    /// Puts the namespace behind the scalar that is the value of `key`.
    fn beside(&self, key: &str, scalar: &Scalar<'_>) -> Option<Edit> {
        let end = scalar.span.end;
        if scalar.is_in_flow() {
            return Some((end..end, format!(", \"namespace\": \"{}\"", self.namespace)));
        }
        if scalar.span.is_empty() || self.manifests[scalar.span.clone()].contains('\n') {
            return None;
        }
        let line = self.manifests[..scalar.span.start].rfind('\n').map_or(0, |at| at + 1);
        let lead = &self.manifests[line..scalar.span.start];
        let column = lead.find(key)?;
        // A quote belongs to the key.
        let column = column - usize::from(lead[..column].ends_with(['"', '\'']));
        let break_at = self.manifests[end..].find('\n').map_or(self.manifests.len(), |at| end + at);
        let break_at = break_at - usize::from(self.manifests[..break_at].ends_with('\r'));
        let new_line = if self.manifests[break_at..].starts_with('\r') { "\r\n" } else { "\n" };
        let text = format!("{new_line}{}namespace: {}", " ".repeat(column), self.namespace);
        Some((break_at..break_at, text))
    }
}

/// Everything but namespaces of objects.
fn rest(stream: &Stream<'_>) -> Result<Vec<String>> {
    let mut all = vec![];
    stream.walk(|at| {
        let is_namespace = matches!(
            at.path,
            [.., metadata, namespace] if metadata.segment == Segment::Key("metadata") && namespace.segment == Segment::Key("namespace")
        );
        if !is_namespace {
            all.push(format!("{at}={}", at.scalar.value));
        }
        Ok(())
    })?;
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::super::objects::objects;
    use super::*;

    fn placed(manifests: &str) -> Placed {
        place(manifests, "shop", &Scopes::new(&[])).expect(manifests)
    }

    #[test]
    fn objects_in_namespaces_get_theirs() {
        let head = "apiVersion: v1\nkind: ConfigMap\n";
        for (before, after) in [
            (
                "metadata:\n  name: a # why\n  labels: {}\n",
                "metadata:\n  name: a # why\n  namespace: shop\n  labels: {}\n",
            ),
            ("metadata:\r\n  \"name\": 'a'\r\n", "metadata:\r\n  \"name\": 'a'\r\n  namespace: shop\r\n"),
            (
                "metadata: {name: a, labels: {}}\n",
                "metadata: {name: a, \"namespace\": \"shop\", labels: {}}\n",
            ),
            ("metadata:\n  name: a", "metadata:\n  name: a\n  namespace: shop"),
            ("metadata:\n  generateName: a-\n", "metadata:\n  generateName: a-\n  namespace: shop\n"),
            ("metadata:\n  namespace:\n  name: a\n", "metadata:\n  namespace: shop\n  name: a\n"),
            (
                "metadata:\n  namespace: \"\" # x\n  name: a\n",
                "metadata:\n  namespace: shop # x\n  name: a\n",
            ),
            ("metadata: {namespace: , name: a}\n", "metadata: {namespace: shop , name: a}\n"),
            ("metadata: {namespace: null, name: a}\n", "metadata: {namespace: shop, name: a}\n"),
            ("metadata: {namespace: other, name: a}\n", "metadata: {namespace: other, name: a}\n"),
            ("metadata: {<<: {namespace: b}, name: a}\n", "metadata: {<<: {namespace: b}, name: a}\n"),
        ] {
            let (before, after) = (format!("{head}{before}"), format!("{head}{after}"));
            let once = placed(&before);
            assert_eq!((once.text.as_str(), once.unknown.len()), (after.as_str(), 0));
            assert_eq!(placed(&after).text, after, "twice");
        }
    }

    #[test]
    fn kinds_decide_and_unknown_ones_are_named() {
        let text = "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n---\n\
                    apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: b}\n---\n\
                    apiVersion: acme.example/v1\nkind: Thing\nmetadata: {name: c}\n---\n\
                    apiVersion: acme.example/v1\nkind: Wide\nmetadata: {name: d}\n---\n\
                    apiVersion: other.example/v1\nkind: Odd\nmetadata: {name: e}\n---\n# nothing\n---\n\
                    apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Secret\n  metadata:\n    name: f\n";
        let definition = |kind: &str, scope: &str| {
            format!(
                "---\napiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {{name: x}}\n\
                 spec: {{group: acme.example, scope: {scope}, names: {{kind: {kind}}}}}\n"
            )
        };
        let mut scopes = Scopes::new(&["Said.other.example".into()]);
        scopes.define(&objects(&(definition("Thing", "Namespaced") + &definition("Wide", "Cluster"))).0);
        let Placed { text: after, unknown } = place(text, "shop", &scopes).expect("placed");
        let expected = text
            .replace("{name: c}", "{name: c, \"namespace\": \"shop\"}")
            .replace("    name: f\n", "    name: f\n    namespace: shop\n");
        assert_eq!(after, expected);
        assert_eq!(unknown, BTreeSet::from(["Odd.other.example".into()]));
        assert_eq!(scopes.is_namespaced("other.example/v1", "Said"), Some(true));
    }
}
