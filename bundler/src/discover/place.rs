//! Places in manifests, for people and for programs.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::words;
use crate::yaml::{Node, Segment, Stream, Use};

/// A scalar's place: in a stream, or in a document that is a scalar of another one.
#[derive(Clone, Copy, Debug)]
pub struct Spot<'a> {
    /// The stream it is in.
    pub stream: &'a Stream<'a>,
    /// Where in that.
    pub at: Use<'a>,
    /// Of the scalar that has the stream in it, if it is a document within a document.
    pub within: Option<&'a Spot<'a>>,
}

/// What kind of place it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A pod spec's image.
    Pod,
    /// The same, of a hook or test of helm.
    PodHook,
    /// An argument or command of a container.
    Args,
    /// The value of an environment variable.
    Env,
    /// A field of a custom resource.
    Cr,
    /// A ConfigMap's payload.
    Configmap,
    /// A Secret's payload.
    Secret,
    /// An annotation or label.
    Annotation,
    /// Any other field.
    Field,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pod => "pod",
            Self::PodHook => "pod-hook",
            Self::Args => "args",
            Self::Env => "env",
            Self::Cr => "cr",
            Self::Configmap => "configmap",
            Self::Secret => "secret",
            Self::Annotation => "annotation",
            Self::Field => "field",
        })
    }
}

impl Spot<'_> {
    /// In how many documents its document is.
    pub(super) fn depth(&self) -> usize {
        self.within.map_or(0, |within| within.depth() + 1)
    }

    /// Whether it, or what it is in, is part of a Secret.
    #[must_use]
    pub fn is_secret(&self) -> bool {
        let is_secret = |parent| self.stream.text(parent, "kind").is_some_and(|kind| kind == "Secret");
        self.at.path.iter().any(|step| is_secret(step.parent)) || self.within.is_some_and(Spot::is_secret)
    }

    /// Whether it is part of a definition of custom resources.
    pub(super) fn is_schema(&self) -> bool {
        let spot = self.outermost();
        spot.stream.text(spot.at.root, "kind") == Some("CustomResourceDefinition")
    }

    /// Whether it names an object, a role or who has it: RBAC's names have colons (`system:auth-delegator`).
    pub(super) fn is_identity(&self) -> bool {
        let key = |n: usize| match self.at.path.len().checked_sub(n).map(|i| self.at.path[i].segment) {
            Some(Segment::Key(key)) => key,
            _ => "",
        };
        key(1) == "name" && (matches!(key(2), "metadata" | "roleRef") || key(3) == "subjects")
    }

    /// Whether it, or what it is in, is text for people.
    pub(super) fn is_prose(&self) -> bool {
        let is_prose = matches!(self.at.path.last(), Some(step) if matches!(step.segment, Segment::Key(key) if words::is_prose(key)));
        is_prose || self.within.is_some_and(Spot::is_prose)
    }

    /// What kind of place it is; `is_pod` says that it is a pod spec's image.
    #[must_use]
    pub fn kind(&self, is_pod: bool) -> Kind {
        let outermost = self.outermost();
        if is_pod && self.within.is_none() {
            return if self.is_hook() { Kind::PodHook } else { Kind::Pod };
        }
        let keys = || {
            outermost.at.path.iter().filter_map(|step| match step.segment {
                Segment::Key(key) => Some(key),
                Segment::Index(_) => None,
            })
        };
        let object = outermost.object();
        let kind = object.and_then(|object| outermost.stream.text(object, "kind"));
        match kind {
            Some("ConfigMap") if !keys().any(|key| key == "metadata") => return Kind::Configmap,
            Some("Secret") if !keys().any(|key| key == "metadata") => return Kind::Secret,
            _ => {}
        }
        let last_keys: Vec<&str> = keys().collect();
        if last_keys.iter().any(|key| matches!(*key, "annotations" | "labels")) {
            return Kind::Annotation;
        }
        match last_keys.iter().rev().find(|key| !matches!(**key, "value" | "name")) {
            Some(&"args" | &"command") => Kind::Args,
            Some(&"env") => Kind::Env,
            _ if object.is_some_and(|object| outermost.is_custom(object)) => Kind::Cr,
            _ => Kind::Field,
        }
    }

    /// The environment variable whose value it is, or is in.
    pub(super) fn variable(&self) -> Option<String> {
        let spot = self.outermost();
        let [.., above, _, value] = spot.at.path else { return None };
        let is_value = value.segment == Segment::Key("value") && above.segment == Segment::Key("env");
        is_value.then(|| spot.stream.text(value.parent, "name").map(Into::into)).flatten()
    }

    fn outermost(&self) -> &Self {
        self.within.map_or(self, Spot::outermost)
    }

    /// The innermost object around it that has a kind and an API version: a `List` has others in it.
    fn object(&self) -> Option<crate::yaml::NodeId> {
        let has_kind = |id: &crate::yaml::NodeId| {
            self.stream.text(*id, "kind").is_some() && self.stream.text(*id, "apiVersion").is_some()
        };
        self.at.path.iter().rev().map(|step| step.parent).find(has_kind)
    }

    fn is_hook(&self) -> bool {
        let Some(annotations) = self
            .object()
            .or(Some(self.at.root))
            .and_then(|object| self.stream.get(object, "metadata"))
            .and_then(|metadata| self.stream.get(metadata, "annotations"))
        else {
            return false;
        };
        let Node::Mapping(entries) = self.stream.node(annotations) else { return false };
        entries.iter().any(|(key, _)| key == "helm.sh/hook")
    }

    /// Whether its API group is none of Kubernetes' own: those have no dot, or end with `.k8s.io`.
    fn is_custom(&self, object: crate::yaml::NodeId) -> bool {
        let version = self.stream.text(object, "apiVersion").unwrap_or_default();
        version.split_once('/').is_some_and(|(group, _)| {
            group.contains('.') && !(group.ends_with(".k8s.io") && BUILT_IN.contains(&group))
        })
    }
}

/// API groups of Kubernetes itself that have a dot. Others that end with `.k8s.io` are custom (`snapshot.storage.k8s.io`).
const BUILT_IN: [&str; 13] = [
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "apiregistration.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "certificates.k8s.io",
    "coordination.k8s.io",
    "discovery.k8s.io",
    "events.k8s.io",
    "flowcontrol.apiserver.k8s.io",
    "networking.k8s.io",
    "rbac.authorization.k8s.io",
    "storage.k8s.io",
];

impl fmt::Display for Spot<'_> {
    /// The object and the path in it: `Deployment/web spec.template.spec.containers[0].image`; of a document within a
    /// document behind that of the outer one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stream, at, within } = self;
        if let Some(within) = within {
            write!(f, "{within} > ")?;
            if stream.roots().len() == 1 {
                return write!(f, "{at}");
            }
        }
        let name = stream.get(at.root, "metadata").and_then(|metadata| stream.text(metadata, "name"));
        match (stream.text(at.root, "kind"), name) {
            (Some(kind), Some(name)) => write!(f, "{kind}/{name} {at}"),
            (Some(kind), None) => write!(f, "{kind} {at}"),
            _ => {
                let number = stream.number_of(at.root);
                write!(f, "document {number}")?;
                if at.path.is_empty() { Ok(()) } else { write!(f, " {at}") }
            }
        }
    }
}
