//! What was generated is kept: helm's `lookup`, asked by real helm of a stand-in for the API server that knows Secrets.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use serde_json::{Value, json};

use super::{NAMESPACE, Rendered, name};

/// The kinds that the chart makes by default, which helm asks for.
const KINDS: [(&str, &[&str]); 4] = [
    ("v1", &["Secret", "ConfigMap", "Service", "ServiceAccount"]),
    ("apps/v1", &["Deployment", "StatefulSet"]),
    ("networking.k8s.io/v1", &["NetworkPolicy"]),
    ("policy/v1", &["PodDisruptionBudget"]),
];

/// What the API server says of its kinds at `path`.
fn discovery(path: &str) -> Option<Value> {
    let groups =
        KINDS.iter().filter_map(|(version, _)| version.split_once('/').map(|(group, _)| (group, version)));
    let groups: Vec<Value> = groups
        .map(|(group, version)| json!({ "name": group, "versions": [{ "groupVersion": version, "version": "v1" }] }))
        .collect();
    match path {
        "/version" => Some(json!({ "major": "1", "minor": "37", "gitVersion": "v1.37.2" })),
        "/api" => Some(json!({ "kind": "APIVersions", "versions": ["v1"] })),
        "/apis" => Some(json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups })),
        _ => {
            let version = path.strip_prefix("/apis/").or_else(|| path.strip_prefix("/api/"))?;
            let (_, kinds) = KINDS.iter().find(|(known, _)| *known == version)?;
            let resource = |kind: &&str| json!({ "name": format!("{}s", kind.to_lowercase()), "kind": kind, "namespaced": true, "verbs": ["get"] });
            let resources: Vec<Value> = kinds.iter().map(resource).collect();
            Some(json!({ "kind": "APIResourceList", "groupVersion": version, "resources": resources }))
        }
    }
}

/// Answers GETs: the kinds it knows, and the Secrets among `secrets`; the port it listens on.
fn api_server(secrets: Arc<Mutex<Vec<Value>>>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
            let request = lines.next().unwrap_or_default();
            lines.find(String::is_empty);
            let path = request.split([' ', '?']).nth(1).unwrap_or_default();
            let answer = discovery(path).or_else(|| {
                let wanted = path.strip_prefix(&format!("/api/v1/namespaces/{NAMESPACE}/secrets/"))?;
                secrets.lock().expect("the Secrets").iter().find(|secret| name(secret) == wanted).cloned()
            });
            let status = if answer.is_some() { "200 OK" } else { "404 Not Found" };
            let missing = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404 });
            let body = answer.unwrap_or(missing).to_string();
            let _ = write!(
                &stream,
                "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
        }
    });
    port
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn generated_passwords_and_certificates_are_kept_by_upgrades() {
    let cluster = Arc::new(Mutex::new(Vec::new()));
    let server = format!("http://127.0.0.1:{}", api_server(Arc::clone(&cluster)));
    let secrets = |more: &[&str]| {
        let args = [&["--dry-run=server", "--disable-openapi-validation", "--kube-apiserver", &server], more]
            .concat();
        let rendered = Rendered::new("upgrade", &args);
        rendered.kind("Secret").into_iter().cloned().collect::<Vec<Value>>()
    };
    let (first, other) = (secrets(&[]), secrets(&[]));
    assert_eq!(first.len(), 2);
    for (first, other) in first.iter().zip(&other) {
        assert_ne!(first["data"], other["data"], "generated, not fixed");
    }
    cluster.lock().expect("the Secrets").extend(first.iter().cloned());
    assert_eq!(secrets(&["--is-upgrade"]), first, "kept");
    let given = secrets(&["--is-upgrade", "--set", "redis.auth.password=a-new-password"]);
    let given: Vec<&Value> = given.iter().map(|secret| &secret["data"]["redis-password"]).collect();
    let encoded = base64::engine::general_purpose::STANDARD.encode("a-new-password");
    assert!(given.contains(&&json!(encoded)), "a given one decides");
    cluster.lock().expect("the Secrets").clear();
    assert_ne!(secrets(&["--is-upgrade"]), first, "deleted: made anew");
}
