//! The cluster's API, asked for what helm does not say: by path and as JSON, with no more types than are read.
//!
//! Threat model: the API server is trusted as far as its certificate goes; what it hands on of pods (names, messages of
//! image pulls) comes from strangers, and is shown through the printer only.

mod access;
mod connect;
mod kinds;
mod node;
mod pod;

use std::time::{Duration, Instant};

use http::{Method, Request};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Error, Result};

pub use access::Access;
pub use kinds::{Kinds, Resource};
pub use node::Node;
pub use pod::{Container, ContainerStatus, Event, Owner, Pod};

/// Longest wait for one answer.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Objects that are asked for at a time.
const PAGE: usize = 250;

/// A cluster that has been connected to.
#[derive(Clone)]
pub struct Cluster {
    client: kube::Client,
    namespace: String,
    server: String,
}

/// What the API server says of itself.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    git_version: String,
}

/// A list, or a page of one.
#[derive(Deserialize)]
struct List<T> {
    #[serde(default)]
    metadata: ListMetadata,
    items: Option<Vec<T>>,
}

#[derive(Default, Deserialize)]
struct ListMetadata {
    #[serde(rename = "continue", default)]
    next: String,
}

/// The part of an object that says which one it is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metadata {
    /// Name.
    pub name: String,
    /// Namespace; empty for what is in none.
    pub namespace: String,
    /// Never given twice.
    pub uid: String,
    /// When it was made (RFC 3339).
    pub creation_timestamp: String,
    /// There once it is being deleted.
    pub deletion_timestamp: Option<String>,
    /// What owns it.
    pub owner_references: Vec<Owner>,
}

/// Whether a namespace is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It is.
    There,
    /// It is being deleted: nothing new can be made in it.
    Going,
    /// It is not.
    Absent,
}

#[derive(Deserialize)]
struct Object {
    metadata: Metadata,
}

impl Cluster {
    /// Connects as kubectl and helm do: `KUBECONFIG`, else `~/.kube/config`, else the pod's own service account; asks
    /// nothing yet.
    ///
    /// # Errors
    /// When there is no usable kubeconfig or no such context.
    pub async fn connect(context: Option<&str>) -> Result<Self> {
        connect::connect(context).await
    }

    /// Namespace that the context names, `default` where it names none: helm's own choice, too.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Where its API is.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Its version, as `v1.33.2`.
    ///
    /// # Errors
    /// When it can't be reached, or does not let us in.
    pub async fn version(&self) -> Result<String> {
        let doing = format!("asking the cluster at {} for its version", self.server);
        let version: Version = self.ask(&doing, Method::GET, "/version", None).await?;
        Ok(version.git_version)
    }

    /// What tells it from other clusters: the UID of its `kube-system` namespace.
    ///
    /// # Errors
    /// When it can't be asked.
    pub async fn id(&self) -> Result<String> {
        Ok(self.get::<Object>("/api/v1/namespaces/kube-system").await?.metadata.uid)
    }

    /// Whether a namespace is there.
    ///
    /// # Errors
    /// When it can't be asked.
    pub async fn presence(&self, name: &str) -> Result<Presence> {
        let found: Option<Object> = self.find(&format!("/api/v1/namespaces/{name}")).await?;
        Ok(match found {
            None => Presence::Absent,
            Some(object) if object.metadata.deletion_timestamp.is_some() => Presence::Going,
            Some(_) => Presence::There,
        })
    }

    /// All namespaces' names.
    ///
    /// # Errors
    /// When they can't be listed.
    pub async fn namespaces(&self) -> Result<Vec<String>> {
        let all: Vec<Object> = self.list("/api/v1/namespaces", "").await?;
        Ok(all.into_iter().map(|object| object.metadata.name).collect())
    }

    /// The pods of a namespace.
    ///
    /// # Errors
    /// When they can't be listed.
    pub async fn pods(&self, namespace: &str) -> Result<Vec<Pod>> {
        self.list(&format!("/api/v1/namespaces/{namespace}/pods"), "").await
    }

    /// The warnings among a namespace's events.
    ///
    /// # Errors
    /// When they can't be listed.
    pub async fn warnings(&self, namespace: &str) -> Result<Vec<Event>> {
        self.list(&format!("/api/v1/namespaces/{namespace}/events"), "fieldSelector=type%3DWarning").await
    }

    /// The nodes.
    ///
    /// # Errors
    /// When they can't be listed.
    pub async fn nodes(&self) -> Result<Vec<Node>> {
        self.list("/api/v1/nodes", "").await
    }

    /// One object.
    ///
    /// # Errors
    /// When it is not there, or can't be asked for.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.ask(&self.reading(path), Method::GET, path, None).await
    }

    /// One object, if it is there.
    ///
    /// # Errors
    /// When it can't be asked for.
    pub async fn find<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>> {
        match self.request(Method::GET, path, None).await {
            Ok(found) => Ok(Some(found)),
            Err(Failure::Api(status)) if status.code == 404 => Ok(None),
            Err(failure) => Err(failure.during(&self.reading(path))),
        }
    }

    /// All objects of a list, `query` narrowing it.
    ///
    /// # Errors
    /// When they can't be listed.
    pub async fn list<T: DeserializeOwned>(&self, path: &str, query: &str) -> Result<Vec<T>> {
        let mut all = Vec::new();
        let mut next = String::new();
        loop {
            let page = format!("{path}?limit={PAGE}&continue={next}&{query}");
            let list: List<T> = self.ask(&self.reading(path), Method::GET, &page, None).await?;
            all.extend(list.items.unwrap_or_default());
            if list.metadata.next.is_empty() {
                return Ok(all);
            }
            next = list.metadata.next.replace('=', "%3D").replace('+', "%2B").replace('/', "%2F");
        }
    }

    /// Makes an object; what the server made of it.
    ///
    /// # Errors
    /// When the server refuses it.
    pub async fn create(&self, path: &str, object: &Value) -> Result<Value> {
        self.ask(&format!("creating an object at {path}"), Method::POST, path, Some(object)).await
    }

    /// Deletes an object; one that is gone already is no failure.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn delete(&self, path: &str) -> Result<()> {
        match self.request::<Value>(Method::DELETE, path, None).await {
            Ok(_) => Ok(()),
            Err(Failure::Api(status)) if status.code == 404 => Ok(()),
            Err(failure) => Err(failure.during(&format!("deleting {path}"))),
        }
    }

    fn reading(&self, path: &str) -> String {
        format!("asking the cluster at {} for {path}", self.server)
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        doing: &str,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<T> {
        self.request(method, path, body).await.map_err(|failure| failure.during(doing))
    }

    async fn request<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<T, Failure> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("Accept", "application/json")
            .header("Content-Type", "application/json")
            .body(body.map(|body| body.to_string().into_bytes()).unwrap_or_default())
            .map_err(|e| Failure::Other(e.to_string()))?;
        let (since, shown) =
            (Instant::now(), format!("{} {}{}", request.method(), self.server, request.uri().path()));
        let answer = match tokio::time::timeout(TIMEOUT, self.client.request(request)).await {
            Ok(answer) => answer.map_err(Failure::from),
            Err(_) => Err(Failure::Other(format!("no answer for {} seconds", TIMEOUT.as_secs()))),
        };
        let status = match &answer {
            Ok(_) => "ok".into(),
            Err(Failure::Api(status)) => status.code.to_string(),
            Err(Failure::Other(why)) => format!("no answer: {why}"),
        };
        tracing::info!("{shown}: {status}, {:.3} s", since.elapsed().as_secs_f64());
        answer
    }
}

/// Why there is no answer.
enum Failure {
    /// The server said no.
    Api(Box<kube::core::Status>),
    /// There was none, or it was not understood.
    Other(String),
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::Api(status),
            // The outer texts say "ServiceError: client error (Connect)"; the innermost says why.
            other => Self::Other(root_cause(&other)),
        }
    }
}

impl Failure {
    fn during(self, doing: &str) -> Error {
        match self {
            Self::Api(status) => {
                let text = match status.message.as_str() {
                    "" => format!("the API server answers {}", status.code),
                    message => message.to_owned(),
                };
                let error = Error::cluster(doing, text);
                match status.code {
                    401 => error.hint(
                        "the cluster does not know who asks: the kubeconfig's token or certificate has expired or is another cluster's; get a new kubeconfig",
                    ),
                    403 => error.hint("ask the cluster's administrator for this right, or use another kubeconfig"),
                    _ => error,
                }
            }
            Self::Other(text) => {
                let hint = hint_for(&text);
                Error::cluster(doing, text).hint(hint)
            }
        }
    }
}

/// What to do about a connection that did not come about.
fn hint_for(text: &str) -> &'static str {
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if has(&["UnknownIssuer", "CaUsedAsEndEntity"]) {
        "the API server's certificate is of an authority that the kubeconfig does not name: is it the right cluster's `certificate-authority-data`?"
    } else if has(&["NotValidForName", "not valid for name"]) {
        "the API server's certificate is for other names: use one of them in the kubeconfig's `server`, or set `tls-server-name`"
    } else if has(&["Expired", "expired"]) {
        "a certificate has expired, or this machine's clock is wrong: compare `date`"
    } else if has(&["CertificateRequired", "received fatal alert"]) {
        "the API server does not take the kubeconfig's client certificate: it has expired, or is another cluster's"
    } else if has(&["exec"]) {
        "the kubeconfig's login program fails: run `kubectl get --raw /version` to see what it says"
    } else {
        "name the cluster by KUBECONFIG or --kube-context, as for helm and kubectl; is it running, and reached from here?"
    }
}

/// The innermost of a chain of causes.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(below) = cause.source() {
        cause = below;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_to_do() {
        let status = |code: u16, message: &str| {
            let status = serde_json::json!({"status": "Failure", "code": code, "message": message});
            Failure::Api(serde_json::from_value(status).expect("a status"))
        };
        let error = status(401, "Unauthorized").during("asking");
        assert!(error.hint_text().is_some_and(|hint| hint.contains("expired")), "{error}");
        assert_eq!(error.kind(), crate::Kind::Cluster);
        let error = status(403, "pods is forbidden: User \"a\" cannot list").during("asking");
        assert_eq!(error.to_string(), "asking: pods is forbidden: User \"a\" cannot list");
        for (text, word) in [
            ("invalid peer certificate: UnknownIssuer", "certificate-authority-data"),
            ("invalid peer certificate: Expired", "clock"),
            ("received fatal alert: CertificateRequired", "client certificate"),
            ("Connection refused (os error 111)", "KUBECONFIG"),
        ] {
            let error = Failure::Other(text.into()).during("asking");
            assert!(error.hint_text().is_some_and(|hint| hint.contains(word)), "{text}");
        }
    }
}
